package appproxy

import (
	"bufio"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestHeadCheck(t *testing.T) {
	tests := map[string]struct {
		heads   string
		err     error
		options []string
	}{
		"plain":               {lines("HTTP/1.1 200 OK", "Content-Length: 1", "", "x\n"), nil, nil},
		"options":             {lines("HTTP/1.1 200 OK", "connection: close, X-Foo", "", ""), nil, []string{" close, X-Foo"}},
		"options twice":       {lines("HTTP/1.1 200 OK", "Connection:a", "Connection: b", "", ""), nil, []string{"a, b"}},
		"folded options":      {lines("HTTP/1.1 200 OK", "Connection: a,", " X-Foo", "X-Bar: 1", " y", "", ""), nil, []string{" a,  X-Foo"}},
		"options are last":    {lines("HTTP/1.1 103 Early", "Connection: a", "", "HTTP/1.1 200 OK", "", ""), nil, nil},
		"after 101":           {lines("HTTP/1.1 101 Switching", "", "\n\n"), nil, nil},
		"bare LF":             {"HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\n\r\n", errBareLF, nil},
		"bare LF at once":     {"HTTP/1.1 200 OK\n\n", errBareLF, nil},
		"bare LF at the end":  {"HTTP/1.1 200 OK\r\n\n", errBareLF, nil},
		"two lengths":         {lines("HTTP/1.1 200 OK", "content-length: 1", "Transfer-Encoding: chunked", "", ""), errTwoLengths, nil},
		"two lengths later":   {lines("HTTP/1.1 100 Continue", "", "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Content-Length: 1", "", ""), errTwoLengths, nil},
		"one each":            {lines("HTTP/1.1 103 Early", "Content-Length: 0", "", "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", ""), nil, nil},
		"coding in HTTP/1.0":  {lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", "", ""), errOldCoding, nil},
		"not yet the end":     {"HTTP/1.1 200 OK\r\nX: 1", nil, nil},
		"nothing that it saw": {"", nil, nil},
	}
	for name, tt := range tests {
		for _, size := range []int{1, 3, 1000} {
			var h headCheck
			h.begin()
			var err error
			for part := range slices.Chunk([]byte(tt.heads), size) {
				if err == nil {
					err = h.feed(part)
				}
			}
			if !errors.Is(err, tt.err) || (err == nil && !slices.Equal(h.options(), tt.options)) {
				t.Errorf("%s by %d: error %v, options %q; want %v, %q", name, size, err, h.options(), tt.err, tt.options)
			}
		}
	}
}

// FuzzHeadCheck holds it to net/http: it must find the end of the final head
// where the parser does, or it would look at bodies, or not at heads.
func FuzzHeadCheck(f *testing.F) {
	f.Add(lines("HTTP/1.1 103 Early", "X: 1", "", "HTTP/1.1 200 OK", "Connection: close, X", " y", "Content-Length: 3", "", "abc"))
	f.Add(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "0", "", ""))
	f.Add("HTTP/1.0 204 \r\n\r\n")
	f.Fuzz(func(t *testing.T, answer string) {
		var h headCheck
		h.begin()
		if h.feed([]byte(answer)) != nil {
			return
		}
		r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(answer)))
		for {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return
			}
			if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
				continue
			}
			if !h.over {
				t.Errorf("the final head of %q was not seen to end", answer)
			}
			if len(resp.TransferEncoding) > 0 && h.length {
				t.Errorf("%q has two lengths", answer)
			}
			return
		}
	})
}

func TestIdleFor(t *testing.T) {
	for keepAlive, want := range map[string]string{
		"":                     "4s",
		"timeout=5":            "4s",
		"timeout=5, max=100":   "4s",
		"max=100, Timeout=2":   "1s",
		"timeout=1":            "500ms",
		"timeout=0":            "0s",
		"timeout=70000":        "4s", // not a number that it takes
		"timeout=60":           "4s",
		"timeout":              "4s",
		"timeout=-1":           "4s",
		"something, timeout=3": "2s",
	} {
		if got := idleFor(DefaultIdleTimeout, http.Header{"Keep-Alive": {keepAlive}}); got.String() != want {
			t.Errorf("%q: %v, want %v", keepAlive, got, want)
		}
	}
}
