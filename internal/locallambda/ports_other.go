//go:build !linux

package locallambda

// ephemeralPorts is the range that IANA set aside (RFC 6335, section 6), which
// macOS, the BSDs and Windows use.
func ephemeralPorts() (low, high int) { return 49152, 65535 }
