package caddymodule

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// adapt turns a Caddyfile into JSON.
func adapt(t *testing.T, input string) (string, []caddyconfig.Warning, error) {
	t.Helper()
	out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	return string(out), warnings, err
}

func TestCaddyfileBecomesJSON(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{
			"only a function", `lambda_dispatch shop`,
			`{"function":"shop"}`,
		},
		{
			"function inside", "lambda_dispatch {\n function arn:aws:lambda:eu-central-1:123456789012:function:shop:live\n}",
			`{"function":"arn:aws:lambda:eu-central-1:123456789012:function:shop:live"}`,
		},
		{
			"a function that requests choose", `lambda_dispatch preview-{http.request.host.labels.2} {
				allow_functions preview-* app:pr-?
				allow_functions arn:aws:lambda:eu-central-1:123456789012:function:t-*
				max_functions 7
			}`,
			`{"function":"preview-{http.request.host.labels.2}","allow_functions":["preview-*","app:pr-?",
			"arn:aws:lambda:eu-central-1:123456789012:function:t-*"],"max_functions":7}`,
		},
		{
			"numbers and durations", `lambda_dispatch shop {
				max_concurrent 20
				target_concurrent 8
				min_instances 1
				max_instances 50
				idle_timeout 90s
				queue_size 500
				queue_timeout 1d
			}`,
			`{"function":"shop","max_concurrent":20,"target_concurrent":8,"min_instances":1,"max_instances":50,
			"idle_timeout":90000000000,"queue_size":500,"queue_timeout":86400000000000}`,
		},
		{
			"off", "lambda_dispatch shop {\n queue_size off\n queue_timeout off\n}",
			`{"function":"shop","queue_size":-1,"queue_timeout":-1}`,
		},
		{
			"callback", "lambda_dispatch shop {\n callback {\n listen :9000\n advertise 10.0.0.7\n tls off\n }\n}",
			`{"function":"shop","callback":{"listen":":9000","advertise":"10.0.0.7","tls":{"off":true}}}`,
		},
		{
			"zones", "lambda_dispatch shop {\n callback {\n zone eu-central-1a=euc1-az2 eu-central-1b=euc1-az3\n }\n}",
			`{"function":"shop","callback":{"zone":"eu-central-1a=euc1-az2,eu-central-1b=euc1-az3"}}`,
		},
		{
			"callback with a certificate", "lambda_dispatch shop {\n callback {\n tls c.pem k.pem\n }\n}",
			`{"function":"shop","callback":{"tls":{"certificate":"c.pem","key":"k.pem"}}}`,
		},
		{
			"invoker aws", "lambda_dispatch shop {\n invoker aws {\n region eu-central-1\n endpoint https://example.com\n }\n}",
			`{"function":"shop","invoker":{"aws":{"region":"eu-central-1","endpoint":"https://example.com"}}}`,
		},
		{
			"invoker local", `lambda_dispatch shop {
				invoker local {
					command node server.js --flag
					dir /srv
					adapter /bin/lambdaadapter
					env A 1
					env B "two words"
					port 3000
					cold_start 2s
					timeout 30s
					memory 512MiB
					max_environments 7
					warm_for 10s
				}
			}`,
			`{"function":"shop","invoker":{"local":{"command":["node","server.js","--flag"],"dir":"/srv",
			"adapter":"/bin/lambdaadapter","env":{"A":"1","B":"two words"},"port":3000,"cold_start":2000000000,
			"timeout":30000000000,"memory":536870912,"max_environments":7,"warm_for":10000000000}}}`,
		},
		{
			"the proxy's subdirectives", "lambda_dispatch shop {\n header_up X-A b\n flush_interval -1\n max_concurrent 3\n trusted_proxies 10.0.0.0/8\n}",
			`{"function":"shop","max_concurrent":3,"proxy":{"flush_interval":-1,
			"headers":{"request":{"set":{"X-A":["b"]}}},"trusted_proxies":["10.0.0.0/8"]}}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := new(Handler)
			if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(tc.in)); err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			if normal(t, string(got)) != normal(t, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func normal(t *testing.T, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every wrong value names file and line, what was wrong, and what is allowed.
func TestWrongCaddyfile(t *testing.T) {
	for _, tc := range []struct{ name, block, line, want string }{
		{"two functions", "lambda_dispatch a b", ":2", "unexpected argument 'b': lambda_dispatch takes one function"},
		{"function twice", "lambda_dispatch a {\nfunction b\n}", ":3", "function is given twice"},
		{"unknown subdirective", "lambda_dispatch a {\nmax_concurent 3\n}", ":3", "unrecognized subdirective 'max_concurent' of lambda_dispatch, must be one of: allow_functions, callback, flush_interval,"},
		{"not a number", "lambda_dispatch a {\nmax_concurrent many\n}", ":3", "bad max_concurrent value 'many': must be a whole number from 1 to 1000"},
		{"number out of range", "lambda_dispatch a {\nmax_concurrent 0\n}", ":3", "bad max_concurrent value '0': must be a whole number from 1 to 1000"},
		{"no number", "lambda_dispatch a {\nmax_concurrent\n}", ":3", "max_concurrent needs a value"},
		{"two numbers", "lambda_dispatch a {\nmax_concurrent 1 2\n}", ":3", "max_concurrent takes one value, '2' is too much"},
		{"given twice", "lambda_dispatch a {\nmax_instances 1\nmax_instances 2\n}", ":4", "max_instances is given twice"},
		{"duration without unit", "lambda_dispatch a {\nidle_timeout 30\n}", ":3", "bad idle_timeout value '30': must be a duration above zero such as 30s or 5m"},
		{"negative duration", "lambda_dispatch a {\nqueue_timeout -3s\n}", ":3", "must be a duration above zero such as 30s or 5m, or off"},
		{"target above maximum", "lambda_dispatch a {\nmax_concurrent 2\ntarget_concurrent 3\n}", ":5", "target_concurrent is 3, must be between 1 and max_concurrent, which is 2"},
		{"minimum above maximum", "lambda_dispatch a {\nmin_instances 5\nmax_instances 3\n}", ":5", "max_instances is 3, must be at least 1 and at least min_instances, which is 5"},
		{"unknown in callback", "lambda_dispatch a {\ncallback {\nport 3\n}\n}", ":4", "unrecognized subdirective 'port' of callback, must be one of: advertise, listen, tls, zone"},
		{"bad tls", "lambda_dispatch a {\ncallback {\ntls on\n}\n}", ":4", "bad tls value 'on': must be off, auto, or a certificate file and a key file"},
		{"callback with argument", "lambda_dispatch a {\ncallback :80\n}", ":3", "unexpected argument ':80': callback takes a block"},
		{"unknown invoker", "lambda_dispatch a {\ninvoker azure\n}", ":3", "unrecognized invoker 'azure', must be one of: aws, local"},
		{"unknown in invoker aws", "lambda_dispatch a {\ninvoker aws {\nzone b\n}\n}", ":4", "unrecognized subdirective 'zone' of invoker aws, must be one of: endpoint, region"},
		{"unknown in invoker local", "lambda_dispatch a {\ninvoker local {\ncmd b\n}\n}", ":4", "unrecognized subdirective 'cmd' of invoker local, must be one of: adapter, cold_start, command,"},
		{"no command", "lambda_dispatch a {\ninvoker local {\ncommand\n}\n}", ":4", "wrong argument count"},
		{"bad memory", "lambda_dispatch a {\ninvoker local {\nmemory lots\n}\n}", ":4", "bad memory value 'lots': must be a size such as 512MiB"},
		{"bad port", "lambda_dispatch a {\ninvoker local {\nport 70000\n}\n}", ":4", "bad port value '70000': must be a whole number from 1 to 65535"},
		{"env without value", "lambda_dispatch a {\ninvoker local {\nenv A\n}\n}", ":4", "env takes a name and a value, got 1 arguments"},
		{"function timeout above Lambda's", "lambda_dispatch a {\ninvoker local {\ntimeout 20m\n}\n}", ":6", "timeout is 20m0s, must be between 1s and 15m"},
		{"listen on two ports", "lambda_dispatch a {\ncallback {\nlisten :1-2\n}\n}", ":6", "must be one TCP address"},
		{"advertise too much", "lambda_dispatch a {\ncallback {\nadvertise a:b:c\n}\n}", ":6", "must be auto, a host, or host:port"},
		{"a zone's name", "lambda_dispatch a {\ncallback {\nzone eu-central-1a\n}\n}", ":6", "give its ID, such as euc1-az2"},
		{"no zone", "lambda_dispatch a {\ncallback {\nzone\n}\n}", ":4", "wrong argument count"},
		{"advertise a port that is none", "lambda_dispatch a {\ncallback {\nadvertise host:99999\n}\n}", ":6", "a port from 1 to 65535"},
		{"chosen per request, but nothing allowed", "lambda_dispatch a-{labels.1}", ":2", "function a-{http.request.host.labels.1} is chosen per request: allow_functions must list the functions that it may be, such as preview-*"},
		{"allowed, but not chosen per request", "lambda_dispatch a {\nallow_functions b\n}", ":4", "allow_functions has no effect: function a holds no placeholder that a request replaces, such as preview-{labels.2}"},
		{"bounded, but not chosen per request", "lambda_dispatch a {\nmax_functions 3\n}", ":4", "max_functions has no effect: function a holds no placeholder"},
		{"placeholder that is known when loading", "lambda_dispatch a-{system.hostname} {\nallow_functions b\n}", ":4", "allow_functions has no effect"},
		{"no function allowed", "lambda_dispatch {header.A} {\nallow_functions\n}", ":3", "wrong argument count"},
		{"glob that is none", "lambda_dispatch {header.A} {\nallow_functions [ab]\n}", ":4", "no function can match \"[ab]\": it must be a name, name:qualifier or ARN, in which * is one or more and ? is one of the characters of a name"},
		{"glob for all accounts", "lambda_dispatch {header.A} {\nallow_functions arn:aws:lambda:eu-central-1:*:function:a\n}", ":4", "no function can match"},
		{"too many functions", "lambda_dispatch {header.A} {\nallow_functions a\nmax_functions 0\n}", ":4", "bad max_functions value '0': must be a whole number from 1 to 10000"},
		{"kept for every function that is asked for", "lambda_dispatch {header.A} {\nallow_functions a\nmin_instances 1\n}", ":5", "min_instances must be 0 if the function is chosen per request"},
		{"not a function", "lambda_dispatch a/b", ":2", "function \"a/b\" is not a name, name:qualifier or ARN"},
		{"bad value for the proxy", "lambda_dispatch a {\nflush_interval soon\n}", ":3", "bad duration value 'soon'"},
		{"the proxy's, but not here", "lambda_dispatch a {\nto localhost:80\n}", ":3", "unrecognized subdirective 'to'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := adapt(t, ":80 {\n"+tc.block+"\n}\n")
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "Caddyfile"+tc.line) {
				t.Errorf("error is\n%v\nwant it to name Caddyfile%s and say\n%s", err, tc.line, tc.want)
			}
		})
	}
}

// The example shows every subdirective there is, and is written as Caddy
// formats it.
func TestExampleIsCompleteAndWellFormed(t *testing.T) {
	src, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := adapt(t, string(src))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Errorf("warning: %v", w)
	}
	known := append([]string{"listen", "advertise", "zone", "tls", "region", "endpoint", "command", "dir", "adapter", "env",
		"port", "cold_start", "timeout", "memory", "max_environments", "warm_for",
		"cloudwatch_metrics", "namespace", "dimensions", "interval"}, ownSubdirectives...)
	for _, name := range append(known, proxySubdirectives...) {
		if !strings.Contains(string(src), name) {
			t.Errorf("%s is not shown", name)
		}
	}
}

// Whatever is accepted says the same in JSON.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	f.Add("lambda_dispatch a {\n max_concurrent 3\n callback {\n tls off\n }\n}")
	f.Add("lambda_dispatch {\n invoker local {\n command a b\n env A b\n }\n header_up A b\n}")
	f.Add("lambda_dispatch a-{http.request.host.labels.1} {\n allow_functions a-* b:?\n max_functions 3\n}")
	f.Add("lambda_dispatch \\{ {\n queue_size off\n callback {\n listen {env.A}\n }\n}")
	f.Fuzz(func(t *testing.T, input string) {
		h := new(Handler)
		if h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		first, err := json.Marshal(h)
		if err != nil {
			t.Fatalf("accepted, but cannot be written as JSON: %v", err)
		}
		back := new(Handler)
		if err := json.Unmarshal(first, back); err != nil {
			t.Fatalf("%v in %s", err, first)
		}
		second, err := json.Marshal(back)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s (%v)", first, second, err)
		}
	})
}
