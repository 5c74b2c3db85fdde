//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
)

func TestMarkdown(t *testing.T) {
	r := report{Rounds: 2, Connections: 50}
	// The slower the one, the faster the other: it matters which are compared.
	for round, rps := range []map[string]float64{{"caddy": 1000, "dispatch": 3000}, {"caddy": 3000, "dispatch": 1000}} {
		for name := range rps {
			r.Samples = append(r.Samples, sample{
				Variant: name, Workload: "ping", Round: round, Requests: 5, RPS: rps[name], P50: 1.5, Failures: round,
				FirstErr: "broken", Usage: map[role]usage{roleFirst: {CPUMicros: 10 + 10*float64(round), RSS: 3 << 20}},
			})
		}
	}
	got := r.markdown()
	for _, want := range []string{
		"**GET /ping (4 B)**",
		"| Caddy `reverse_proxy` → app | 2,000 [1,000–3,000] | 1.00 | 1.50 | 0.00 | 15.0 | – | – | 15.0 | 0.0 | 3.0 | – | – |",
		"| lambda_dispatch, `tls off` | 2,000 [1,000–3,000] | 1.67 |",
		"- caddy, ping, round 1: 1 of 6, first: broken",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "echo") {
		t.Errorf("shows a workload that was not measured:\n%s", got)
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.6: "1,000", 123: "123", 1234567: "1,234,567"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

func TestInsert(t *testing.T) {
	got, err := insert([]byte("# A\n"+markBegin+"\nold\n"+markEnd+"\ntail\n"), "new\n")
	if want := "# A\n" + markBegin + "\n\nnew\n\n" + markEnd + "\ntail\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", markBegin, markEnd + markBegin} {
		if _, err := insert([]byte(bad), "new"); !errors.Is(err, errMarks) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
