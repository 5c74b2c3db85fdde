package httprules

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// TestFieldsAsInXNet: the rules are those of golang.org/x/net, for each byte
// alone and inside a text.
func TestFieldsAsInXNet(t *testing.T) {
	texts := []string{"", "a", "Te", "te", "TRAILER", "If-Match", "if-x", "Iffy", "Content-Length", "content-type", "Realm", "X-A", "Grpc-Status",
		"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Www-Authenticate", "Max-Forwards", "Pragma", "Range", "Expect",
		"Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Range", "Host", "Keep-Alive", "Transfer-Encoding",
		"Set-Cookie", "Etag", "bad name", "example.com:80", "[::1]:8080", "ü.example"}
	for c := range 256 {
		texts = append(texts, string([]byte{byte(c)}), "a"+string([]byte{byte(c)})+"b")
	}
	for _, s := range texts {
		for _, rule := range []struct {
			name      string
			ours, its func(string) bool
		}{
			{"field name", ValidFieldName, httpguts.ValidHeaderFieldName},
			{"field value", ValidFieldValue, httpguts.ValidHeaderFieldValue},
			{"host", ValidHost, httpguts.ValidHostHeader},
			{"trailer", ValidTrailer, httpguts.ValidTrailerHeader},
		} {
			if ours, its := rule.ours(s), rule.its(s); ours != its {
				t.Errorf("%q as a %s: %v, golang.org/x/net says %v", s, rule.name, ours, its)
			}
		}
	}
}

func TestHasTokenAsInXNet(t *testing.T) {
	for _, values := range [][]string{
		nil, {""}, {"trailers"}, {"Trailers"}, {"gzip, TRAILERS"}, {"a,b", " \ttrailers\t "}, {"trailersx"}, {"trailers;q=1"}, {"tra ilers"},
		{"trai\u017fers"}, {"trailer\u017f"}, {"\ntrailers"}, {",,trailers"}, {"a", "b"},
	} {
		if ours, its := HasToken(values, "trailers"), httpguts.HeaderValuesContainsToken(values, "trailers"); ours != its {
			t.Errorf("%q: %v, golang.org/x/net says %v", values, ours, its)
		}
	}
	if HasToken([]string{"trailers"}, "trailer\u017f") {
		t.Error("letters beyond ASCII are folded")
	}
}

func TestHTTP2AsInXNet(t *testing.T) {
	for ours, its := range map[http2.FrameType]http2.FrameType{
		FrameData: http2.FrameData, FrameHeaders: http2.FrameHeaders, FrameRSTStream: http2.FrameRSTStream,
		FrameSettings: http2.FrameSettings, FramePing: http2.FramePing, FrameGoAway: http2.FrameGoAway,
		FrameWindowUpdate: http2.FrameWindowUpdate, FrameContinuation: http2.FrameContinuation,
	} {
		if ours != its {
			t.Errorf("frame type %d should be %d", ours, its)
		}
	}
	if FlagEndStream != http2.FlagDataEndStream || FlagAck != http2.FlagPingAck {
		t.Error("a flag is not that of golang.org/x/net")
	}
	for code := range uint32(20) {
		if ours, its := ErrCode(code).String(), http2.ErrCode(code).String(); ours != its {
			t.Errorf("code %d is %s, golang.org/x/net says %s", code, ours, its)
		}
		for _, cause := range []error{nil, errors.New("cause")} {
			ours, its := StreamError{3, ErrCode(code), cause}.Error(), http2.StreamError{StreamID: 3, Code: http2.ErrCode(code), Cause: cause}.Error()
			if ours != its {
				t.Errorf("%q, golang.org/x/net says %q", ours, its)
			}
		}
	}
}

// TestStreamErrorOfNetHTTP: what package net/http reports can be taken apart.
func TestStreamErrorOfNetHTTP(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("no error")
	}
	se, ok := errors.AsType[StreamError](err)
	if !ok || se.StreamID == 0 || se.Code != 0x2 || !strings.Contains(se.Error(), "INTERNAL_ERROR") {
		t.Errorf("%v (%T) became %+v", err, err, se)
	}
}
