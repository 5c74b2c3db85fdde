package httprules

import "testing"

func TestTraceID(t *testing.T) {
	const root = "1-67891233-abcdef012345678912345678"
	const w3c = "4bf92f3577b34da6a3ce929d0e0e4736"
	for _, tc := range []struct{ name, amzn, parent, want string }{
		{"none", "", "", ""},
		{"X-Ray", "Root=" + root + ";Parent=53995c3f42cd8ad8;Sampled=1", "", root},
		{"a load balancer in front of another", "Self=1-67891234-12456789abcdef012345678;Root=" + root, "", root},
		{"W3C", "", "00-" + w3c + "-00f067aa0ba902b7-01", w3c},
		{"both", "Root=" + root, "00-" + w3c + "-00f067aa0ba902b7-01", root},
		{"X-Ray without a root", "Self=" + root, "00-" + w3c + "-00f067aa0ba902b7-01", w3c},
		{"a later version", "", "cc-" + w3c + "-00f067aa0ba902b7-01-more", w3c},
		{"all zeros", "", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", ""},
		{"nonsense", "Root=1-<b>-x", "00-" + w3c[1:] + "g-00f067aa0ba902b7-01", ""},
	} {
		if got := TraceID(tc.amzn, tc.parent); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
