package httprules

import "strings"

// TraceID returns the ID of the trace that a request is part of, as X-Ray or
// W3C write it, by its fields X-Amzn-Trace-Id and Traceparent, or nothing if it
// came without one. Clients can say anything, so that what is no ID is nothing
// either.
// Sources: https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html
// (Root of X-Amzn-Trace-Id), https://www.w3.org/TR/trace-context/ (traceparent).
func TraceID(xray, parent string) string {
	for field := range strings.SplitSeq(xray, ";") {
		root, ok := strings.CutPrefix(strings.TrimSpace(field), "Root=")
		if !ok {
			continue
		}
		parts := strings.Split(root, "-")
		if len(parts) == 3 && parts[0] == "1" && isHex(parts[1], 8) && isHex(parts[2], 24) {
			return root
		}
	}
	parts := strings.Split(parent, "-")
	if len(parts) >= 4 && isHex(parts[0], 2) && isHex(parts[1], 32) && strings.Trim(parts[1], "0") != "" {
		return parts[1]
	}
	return ""
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
