// Package tests holds the black-box tests: real Caddy, real adapters and real
// apps as processes, driven over HTTP. They say what users can rely on; how a
// package does its part is tested beside the package. Nothing here imports the
// code under test.
package tests
