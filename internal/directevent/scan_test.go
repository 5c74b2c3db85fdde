package directevent

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// decode builds with the scanner what encoding/json builds.
func decode(s *scanner) any {
	switch s.next() {
	case '{':
		m := map[string]any{}
		for ok := s.open('{'); ok; ok = s.more('{') {
			name := string(s.key())
			m[name] = decode(s)
		}
		return m
	case '[':
		list := []any{}
		for ok := s.open('['); ok; ok = s.more('[') {
			list = append(list, decode(s))
		}
		return list
	case '"':
		t := s.value()
		if t == nil {
			return nil
		}
		if simple := string(t[1 : len(t)-1]); s.simple && simple != string(t.text()) {
			panic("a string that is said to be simple is not: " + simple)
		}
		return string(t.text())
	default:
		var v any
		if t := s.value(); t != nil {
			if err := json.Unmarshal(t, &v); err != nil && !strings.Contains(err.Error(), "cannot unmarshal number") {
				panic("the scanner let pass: " + string(t))
			}
		}
		return v
	}
}

var jsons = []string{
	`{}`, `[]`, `null`, `true`, `false`, `"x"`, `-0.5e+10`, ` { "a" : [ 1 , { } ] } `, `"\ud83d\ude00\u00e9\/\b\f\n\r\t\"\\"`,
	`"\ud83d"`, `"\ud83dx\ude00"`, `"\ude00\ud83d\ude00"`, `"\ud83d\u0041"`, "\"a\xff\xfeb\xe2\x82\"", "\"\x7f\"", "[\"a\xff\",1,2,3,4]", `{"a":1,"a":2}`,
	`"0123456\"012345\\0123456789"`, "\"Grüße 0123456789 😀\"",
	``, ` `, `{`, `[`, `"`, `"\`, `"\u12`, `"\x"`, "\"\n\"", "\"0123456\x01\"", `tru`, `nul`, `-`, `01`, `1.`, `1e`, `.5`, `+1`, `{a:1}`, `{"a"}`, `{"a":}`,
	`{"a":1,}`, `[1,]`, `[1 2]`, `[1]]`, `{"a":1}}`, `1 2`, `"\'"`, `"\u00zz"`, "\x00", `{"a":1]`, `[}`, "\ufeff{}",
}

func FuzzScanner(f *testing.F) {
	for _, s := range jsons {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, want := valid(data), json.Valid(data); got != want {
			t.Fatalf("valid(%q) = %v, encoding/json says %v", data, got, want)
		}
		if !json.Valid(data) {
			return
		}
		var want any
		if err := json.Unmarshal(data, &want); err != nil {
			return // a number that does not fit into a float64
		}
		s := scanner{data: data}
		if got := decode(&s); s.err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %#v, %v, want %#v", data, got, s.err, want)
		}
	})
}

// FuzzText: what is written is read again as it was, by anybody's JSON.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a", "Grüße 😀", "\x00\x1f\x7f\"\\\n\r\t/<>&\u2028", "\xff\xfe", "01234567\"01234567\x01", "\u0080\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		written := appendString(nil, s)
		var got string
		if err := json.Unmarshal(written, &got); err != nil || got != strings.ToValidUTF8(s, "\ufffd") {
			t.Fatalf("%q was written as %s and read as %q: %v", s, written, got, err)
		}
		header := headerJSON(append(append([]byte(`{ "a" : `), written...), "\n\t}"...))
		var member map[string]string
		if err := json.Unmarshal([]byte(header), &member); err != nil || member["a"] != got {
			t.Errorf("%q reads %q in a header: %v", s, member["a"], err)
		}
		if !httpguts.ValidHeaderFieldValue(header) || utf8.RuneCountInString(header) != len(header) {
			t.Errorf("not a header: %q", header)
		}
	})
}

func TestPrintableAtEveryPlace(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			b := bytes.Repeat([]byte("~ "), 10)
			b[at] = byte(c)
			if got, want := isPrintable(b), c >= ' ' && c < 0x7f; got != want {
				t.Errorf("%q: printable is %v", b, got)
			}
		}
	}
}

// Whatever is special is found wherever it is in the words that are looked at
// together.
func TestSpecialAtEveryPlace(t *testing.T) {
	for at := range 150 {
		for _, special := range []string{`"`, `\n`, `\`, "\n", "\x00", "\xff", "é", "\x7f", ""} {
			data := []byte(`["` + strings.Repeat("x", at) + special + strings.Repeat("y", 150-at) + `"]`)
			var want any
			if valid(data) != json.Valid(data) {
				t.Fatalf("%q at %d: valid is %v", special, at, valid(data))
			}
			if json.Unmarshal(data, &want) != nil {
				continue
			}
			s := scanner{data: data}
			if got := decode(&s); !reflect.DeepEqual(got, want) {
				t.Errorf("%q at %d is read as %q", special, at, got)
			}
			text := want.([]any)[0].(string)
			var again string
			if err := json.Unmarshal(appendString(nil, text), &again); err != nil || again != text {
				t.Errorf("%q is written as %q, %v", text, again, err)
			}
		}
	}
}

func TestDepth(t *testing.T) {
	for _, tt := range []struct {
		depth int
		want  error
	}{{maxDepth, nil}, {maxDepth + 1, errDepth}, {3 << 20, errDepth}} {
		var env envelope
		event := strings.Repeat("[", tt.depth) + strings.Repeat("]", tt.depth)
		if err := env.open([]byte(event)); !errors.Is(err, tt.want) {
			t.Errorf("depth %d: %v, want %v", tt.depth, err, tt.want)
		}
	}
}
