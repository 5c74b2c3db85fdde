package directevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
)

// v2Get is a GET of a browser behind a CDN: 20 headers and two cookies.
func v2Get(tb testing.TB) []byte {
	tb.Helper()
	header := map[string]string{
		"accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
		"accept-encoding": "gzip, deflate, br, zstd", "accept-language": "de-DE,de;q=0.9,en;q=0.8",
		"cache-control": "max-age=0", "host": "u1r2l3.lambda-url.eu-central-1.on.aws", "if-none-match": `W/"5d41402abc4b2a76"`,
		"referer": "https://shop.example.com/orders?page=2", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate",
		"sec-fetch-site": "same-origin", "sec-fetch-user": "?1", "upgrade-insecure-requests": "1",
		"user-agent":      "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
		"x-amzn-trace-id": "Root=1-6923a1b0-000000000000000000000001", "x-forwarded-for": "198.51.100.7, 203.0.113.9",
		"x-forwarded-port": "443", "x-forwarded-proto": "https", "via": "2.0 cdn.example.com", "x-request-id": "0b9e2d64-5a41-4b0f-9f60",
		"priority": "u=0, i",
	}
	if len(header) != 20 {
		tb.Fatalf("%d headers", len(header))
	}
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "$default", "rawPath": "/orders/17", "rawQueryString": "page=2&sort=date",
		"cookies": []string{"session=0123456789abcdef0123456789abcdef", "theme=dark"}, "headers": header,
		"queryStringParameters": map[string]string{"page": "2", "sort": "date"},
		"requestContext": map[string]any{
			"accountId": "anonymous", "apiId": "u1r2l3", "domainName": "u1r2l3.lambda-url.eu-central-1.on.aws", "domainPrefix": "u1r2l3",
			"http":      map[string]any{"method": "GET", "path": "/orders/17", "protocol": "HTTP/1.1", "sourceIp": "198.51.100.7", "userAgent": header["user-agent"]},
			"requestId": "0b9e2d64-5a41-4b0f-9f60-6f1f6a2f8c11", "routeKey": "$default", "stage": "$default", "time": "24/Nov/2026:00:21:00 +0000", "timeEpoch": 1795479660000,
		},
		"isBase64Encoded": false,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return event
}

// v2Post has a body of size bytes as the event has it.
func v2Post(body string, encoded bool) []byte {
	return fmt.Appendf(nil, `{"version":"2.0","rawPath":"/upload","headers":{"host":"example.com"},`+
		`"requestContext":{"http":{"method":"POST"}},"body":"%s","isBase64Encoded":%t}`, body, encoded)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func BenchmarkParseGet(b *testing.B) {
	event := v2Get(b)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		e, err := Parse(event, invocation, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Request(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseBody(b *testing.B) {
	encoded := base64.StdEncoding.EncodeToString(noise(5 << 20 / 4 * 3))
	text := bytes.Repeat([]byte(`{\"id\":17,\"name\":\"Zoë\",\"tags\":[\"a\",\"b\"]},`), 5<<20/50)
	for name, event := range map[string][]byte{
		"base64": v2Post(encoded, true),
		// As PHP, Ruby's Oj and others write it.
		"base64-escaped": v2Post(string(bytes.ReplaceAll([]byte(encoded), []byte("/"), []byte(`\/`))), true),
		"json":           v2Post(string(text), false),
		"text":           v2Post(string(bytes.Repeat([]byte("plain text. "), 5<<20/12)), false),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(event, invocation, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResult(b *testing.B) {
	e, err := Parse(v2Get(b), invocation, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name, contentType string
		body              []byte
	}{
		{"small", "application/json", []byte(`{"ok":true}`)},
		{"binary", "image/png", noise(5 << 20)},
		{"json", "application/json", bytes.Repeat([]byte(`{"id":17,"name":"Zoë","tags":["a","b"]},`), 5<<20/42)},
		{"text", "text/plain", bytes.Repeat([]byte("plain text. "), 5<<20/12)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h := http.Header{"Content-Type": {bb.contentType}, "Cache-Control": {"no-store"}, "Set-Cookie": {"a=1", "b=2"}}
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Result(http.StatusOK, h, bb.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
