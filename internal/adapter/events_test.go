package adapter

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

func TestIsDispatch(t *testing.T) {
	dispatch, err := json.Marshal(invoke.NewEvent("pool", "127.0.0.1:1", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	for event, want := range map[string]bool{
		string(dispatch):           true,
		`{"lambda_dispatch":1}`:    true, // broken, but a router's
		`{"lambda_dispatch": 99}`:  true,
		`{"lambda_dispatch":null}`: false,
		`{}`:                       false,
		``:                         false,
		`null`:                     false,
		`["lambda_dispatch"]`:      false,
		`{"Records":[{"body":"{\"lambda_dispatch\":1}"}]}`:                   false,
		`{"detail":{"lambda_dispatch":1}}`:                                   false,
		`{"body":"` + strings.Repeat("x", 70<<10) + `","lambda_dispatch":1}`: false, // no router's is as large
	} {
		if got := isDispatch([]byte(event)); got != want {
			t.Errorf("%.60s: %v", event, got)
		}
	}
}

// BenchmarkRouteLargeEvent: 6 MB must not be parsed to be told from a dispatch
// event.
func BenchmarkRouteLargeEvent(b *testing.B) {
	event := []byte(`{"body":"` + string(bytes.Repeat([]byte("A"), 6<<20)) + `"}`)
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		if isDispatch(event) {
			b.Fatal("a dispatch event")
		}
	}
}
