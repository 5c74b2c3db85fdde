package adapter

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// What values mean under the names of AWS Lambda Web Adapter (version 1.1.0,
// and the status of 0.7.1 to 1.0.0-rc1) and of AWS itself. A value that is
// wrong there counts as what it counts as there.

// plain is a value that means the same under all names.
func plain(value string) translation { return translation{value: value} }

const (
	endpointHost = iota
	endpointPort
)

// endpoint takes apart the address that AWS's runtimes for web apps tell the
// app to listen on, such as 0.0.0.0:3000. The port is index 1, the host 0.
func endpoint(part int) func(name, value string) translation {
	return func(name, value string) translation {
		if name != httpEndpoint {
			return plain(value)
		}
		value = strings.TrimSuffix(strings.TrimPrefix(value, "http://"), "/")
		host, port, err := net.SplitHostPort(value)
		if err != nil {
			if part == endpointHost {
				return translation{} // one complaint is enough
			}
			return translation{complaint: "must be host:port"}
		}
		return plain([]string{host, port}[part])
	}
}

// lenientPath does to a path what parsing it as a part of a URL does.
func lenientPath(_, value string) translation {
	value = strings.TrimRight(value, " ")
	if strings.HasPrefix(value, "?") {
		value = "/" + value
	}
	var b strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case c == '\t' || c == '\r' || c == '\n':
		case c <= ' ' || c == 0x7f:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return plain(b.String())
}

// eventPath begins with a slash, whether it is written or not.
func eventPath(name, value string) translation {
	if !strings.HasPrefix(value, "/") {
		value = "/" + value
	}
	return lenientPath(name, value)
}

// basePath is compared with paths, all of which begin with a slash.
func basePath(name, value string) translation {
	if !strings.HasPrefix(value, "/") {
		return translation{complaint: "matches no path, because it does not begin with a slash"}
	}
	return lenientPath(name, value)
}

// oneOf is the default for whatever is not allowed.
func oneOf(dflt string, allowed ...string) func(name, value string) translation {
	return func(_, value string) translation {
		var to string
		if err := parseOneOf(&to, value, allowed...); err != nil {
			return translation{value: dflt, complaint: err.Error()}
		}
		return plain(to)
	}
}

// falseUnless is false for whatever is no truth value.
func falseUnless(_, value string) translation {
	var to bool
	if err := parseBool(&to, value); err != nil {
		return translation{value: "false", complaint: err.Error()}
	}
	return plain(value)
}

// seconds are numbers, with fractions, without a unit.
func seconds(zero bool) func(name, value string) translation {
	return func(_, value string) translation {
		const most = 1e9 // some 30 years
		s, err := strconv.ParseFloat(value, 64)
		switch d := time.Duration(min(s, most) * float64(time.Second)); {
		case err != nil || math.IsNaN(s) || math.IsInf(s, 0) || s < 0 || (d == 0 && !zero):
			want := "must be a positive number of seconds"
			if zero {
				want = "must be a number of seconds"
			}
			return translation{complaint: want}
		default:
			return plain(d.String())
		}
	}
}

// healthyStatuses skips what it does not understand. The names with MIN are
// the first status that is not healthy. A set without any status is left as
// it is and refused: the app could never be ready.
func healthyStatuses(name, value string) translation {
	if strings.HasSuffix(name, "MIN_UNHEALTHY_STATUS") {
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return translation{value: "100-499", complaint: "must be a status"}
		}
		return plain(fmt.Sprintf("100-%d", min(n, 1000)-1))
	}
	t := lenientStatuses(name, value)
	if t.value == "" {
		return plain(value)
	}
	return t
}

// lenientStatuses skips what it does not understand.
func lenientStatuses(_, value string) translation {
	var kept, skipped []string
	for part := range strings.SplitSeq(value, ",") {
		part = strings.TrimSpace(part)
		r, err := parseStatusRange(part)
		r.from, r.to = max(r.from, 100), min(r.to, 999)
		switch {
		case part == "":
		case err != nil || r.from > r.to:
			skipped = append(skipped, strconv.Quote(part))
		default:
			kept = append(kept, fmt.Sprintf("%d-%d", r.from, r.to))
		}
	}
	t := plain(strings.Join(kept, ","))
	if len(skipped) > 0 {
		t.complaint = strings.Join(skipped, ", ") + " is no status and no range of them, such as 200-399"
	}
	return t
}

// headerName is nothing if no header can have it.
func headerName(_, value string) translation {
	if !httprules.ValidFieldName(value) {
		return translation{complaint: "must be the name of a header"}
	}
	return plain(value)
}

// logLevel is also what Rust programs make of RUST_LOG if it is one level for
// everything.
func logLevel(name, value string) translation {
	if name == "RUST_LOG" && strings.EqualFold(value, "off") {
		return plain("fatal")
	}
	return oneOf("", "trace", "debug", "info", "warn", "error", "fatal")(name, value)
}
