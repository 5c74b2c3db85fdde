// Package deploy checks what is deployed and cannot be run here: Dockerfiles,
// CloudFormation templates and the commands of docs/deploy.md. It has a module of its
// own because BuildKit, whose parser and lint rules it uses, would otherwise be a
// dependency of the router.
package deploy
