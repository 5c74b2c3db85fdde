package invoke

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// golden is an event with every field set; testdata/event.json is its form on
// the wire, which adapters of older and newer versions depend on.
func golden() Event {
	secret := make([]byte, secretBytes)
	for i := range secret {
		secret[i] = byte(i)
	}
	return Event{
		Version:       EventVersion,
		Instance:      "000102030405060708090a0b0c0d0e0f",
		Secret:        secret,
		Router:        "10.0.0.1:7443",
		TLSPin:        "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
		Pool:          "shop",
		MaxConcurrent: 10,
	}
}

func TestEventOnTheWire(t *testing.T) {
	want, err := os.ReadFile("testdata/event.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(golden())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.TrimSpace(string(want)) {
		t.Errorf("event is\n%s\nwant\n%s", got, want)
	}
	back, err := ParseEvent(want)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(back) != fmt.Sprint(golden()) || string(back.Secret) != string(golden().Secret) {
		t.Errorf("read back as %+v", back)
	}
}

func TestParseEventRejects(t *testing.T) {
	with := func(change func(*Event)) string {
		ev := golden()
		change(&ev)
		b, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tc := range []struct {
		name, payload, want string
	}{
		{"nothing", "", "not a dispatch event"},
		{"null", "null", "not a dispatch event"},
		{"a string", `"hello"`, "not a dispatch event"},
		{"an array", `[1]`, "not a dispatch event"},
		{"an HTTP API event", `{"version":"2.0","rawPath":"/"}`, "not a dispatch event"},
		{"a version of another type", `{"lambda_dispatch":"1"}`, "not a dispatch event"},
		{"a newer version", with(func(e *Event) { e.Version = 2 }), "version 2"},
		{"a short instance", with(func(e *Event) { e.Instance = "0011" }), "32 hexadecimal digits"},
		{"an instance that is not hexadecimal", with(func(e *Event) { e.Instance = strings.Repeat("g", 32) }), "32 hexadecimal digits"},
		{"a short secret", with(func(e *Event) { e.Secret = []byte("short") }), "256 bits"},
		{"a secret that is not base64url", `{"lambda_dispatch":1,"secret":"%%%%"}`, "secret is not base64url"},
		{"a router without a port", with(func(e *Event) { e.Router = "10.0.0.1" }), "not host:port"},
		{"a router with an empty port", with(func(e *Event) { e.Router = "10.0.0.1:" }), "not host:port"},
		{"no concurrency", with(func(e *Event) { e.MaxConcurrent = 0 }), "max_concurrent is 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseEvent([]byte(tc.payload))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error is %v, want it to say %q", err, tc.want)
			}
			if errors.Is(err, ErrNotDispatch) != (tc.want == "not a dispatch event") {
				t.Errorf("is ErrNotDispatch: %v", errors.Is(err, ErrNotDispatch))
			}
			if strings.Contains(err.Error(), "%%%%") {
				t.Errorf("error quotes the secret: %v", err)
			}
		})
	}
}

func TestNewEventsAreDistinctAndValid(t *testing.T) {
	a, b := NewEvent("p", "h:1", "", 1), NewEvent("p", "h:1", "", 1)
	if a.Instance == b.Instance || string(a.Secret) == string(b.Secret) {
		t.Error("two events share an ID or a secret")
	}
	if err := a.validate(); err != nil {
		t.Error(err)
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	ev := golden()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		out := fmt.Sprintf(format, ev)
		if strings.Contains(out, "AAEC") || strings.Contains(out, "0x1, 0x2") || strings.Contains(out, "1 2 3 4") {
			t.Errorf("%s prints the secret: %s", format, out)
		}
	}
}

func TestParseResult(t *testing.T) {
	want := Result{Instance: "i", Reason: ReasonAppUnavailable, Error: "nothing listens on 127.0.0.1:8080", Requests: 3, Environment: "e"}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseResult(b); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, alien := range []string{`{}`, `null`, `"ok"`, `{"statusCode":200}`, ``} {
		if _, err := ParseResult([]byte(alien)); err == nil {
			t.Errorf("%q passes for a result", alien)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	b, err := json.Marshal(golden())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"lambda_dispatch":1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		ev, err := ParseEvent(payload)
		if err != nil {
			return
		}
		again, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseEvent(again); err != nil {
			t.Errorf("event is accepted, but not once written again: %v", err)
		}
	})
}
