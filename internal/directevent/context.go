package directevent

import (
	"strconv"
	"strings"
)

// Headers that are set by us and never believed from outside.
const (
	headerLambdaContext  = "X-Amzn-Lambda-Context"
	headerRequestContext = "X-Amzn-Request-Context"
	headerTenant         = "X-Amz-Tenant-Id"
	headerTrace          = "X-Amzn-Trace-Id"
)

// vouch adds what the app can rely on. Of a source that has no request context
// X-Amzn-Request-Context is null.
func (e *Event) vouch(context token, inv *Invocation) {
	e.setHeader(headerLambdaContext, lambdaContext(inv))
	if context == nil {
		context = token("null")
	}
	e.setHeader(headerRequestContext, headerJSON(context))
	if inv.TenantID != "" {
		e.setHeader(headerTenant, fieldValue(inv.TenantID))
	}
	if inv.TraceID != "" {
		e.setHeader(headerTrace, fieldValue(inv.TraceID))
	}
	if _, have := e.Header["Traceparent"]; !have {
		if parent := traceparent(inv.TraceID); parent != "" {
			e.setHeader("Traceparent", parent)
			// It would belong to another trace (W3C Trace Context, 2.2.4 and 3.3).
			delete(e.Header, "Tracestate")
		}
	}
}

func headerJSON(t token) string {
	if isPrintable(t) {
		return string(t)
	}
	return string(appendHeaderJSON(make([]byte, 0, len(t)+64), t))
}

// lambdaContext is the context in the JSON that Lambda Web Adapter's users know.
func lambdaContext(inv *Invocation) string {
	b := make([]byte, 0, 640)
	b = appendMember(b, `{"request_id":`, inv.RequestID)
	deadline := int64(0)
	if !inv.Deadline.IsZero() {
		deadline = inv.Deadline.UnixMilli()
	}
	b = append(b, `,"deadline":`...)
	b = strconv.AppendInt(b, deadline, 10)
	b = appendMember(b, `,"invoked_function_arn":`, inv.FunctionARN)
	if inv.TraceID == "" {
		b = append(b, `,"xray_trace_id":null`...)
	} else {
		b = appendMember(b, `,"xray_trace_id":`, inv.TraceID)
	}
	b = appendJSON(b, `,"client_context":`, inv.ClientContext)
	b = appendJSON(b, `,"identity":`, inv.CognitoIdentity)
	b = appendMember(b, `,"env_config":{"function_name":`, inv.FunctionName)
	memory, _ := strconv.Atoi(inv.MemoryMB) // 0 when Lambda does not say
	b = append(b, `,"memory":`...)
	b = strconv.AppendInt(b, int64(memory), 10)
	b = appendMember(b, `,"version":`, inv.FunctionVersion)
	b = appendMember(b, `,"log_stream":`, inv.LogStream)
	b = appendMember(b, `,"log_group":`, inv.LogGroup)
	b = append(b, '}')
	if inv.TenantID != "" {
		b = appendMember(b, `,"tenant_id":`, inv.TenantID)
	}
	return headerJSON(append(b, '}'))
}

func appendMember(b []byte, name, value string) []byte {
	return appendString(append(b, name...), value)
}

// appendJSON appends what should be JSON already.
func appendJSON(b []byte, name, json string) []byte {
	b = append(b, name...)
	if json == "" || !valid([]byte(json)) {
		json = "null"
	}
	return append(b, json...)
}

// traceparent returns an X-Ray trace header as W3C Trace Context has it:
//
//	Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1
//	00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01
//
// It returns "" where there is no root or no parent: an ID must not be made up
// for a span that nobody reports.
// https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
func traceparent(xray string) string {
	var root, parent, sampled string
	for field := range strings.SplitSeq(xray, ";") {
		switch name, value, _ := strings.Cut(strings.Trim(field, " "), "="); name {
		case "Root":
			root = value
		case "Parent":
			parent = value
		case "Sampled":
			sampled = value
		}
	}
	version, trace, _ := strings.Cut(root, "-")
	seconds, rest, _ := strings.Cut(trace, "-")
	if version != "1" || len(seconds)+len(rest) != 32 || len(parent) != 16 {
		return ""
	}
	b := append(make([]byte, 0, 55), "00-"...)
	b = append(append(append(append(b, seconds...), rest...), '-'), parent...)
	if !isID(b[3:35]) || !isID(b[36:]) {
		return ""
	}
	for i, c := range b {
		if c >= 'A' && c <= 'F' {
			b[i] = c + 'a' - 'A'
		}
	}
	if sampled == "1" {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// isID reports whether s is hexadecimal digits and not all of them 0.
func isID(s []byte) bool {
	zeros := true
	for _, c := range s {
		if !isHex(c) {
			return false
		}
		zeros = zeros && c == '0'
	}
	return !zeros
}
