package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// invokeFault is what the Invoke API does to the invocations of one function.
// Its name is the function's.
type invokeFault struct {
	name   string
	answer http.HandlerFunc
	status int    // that clients get meanwhile; 0 if they wait
	cause  string // that the log names
}

// awsError answers as the Invoke API does, in the restJson1 protocol.
func awsError(status int, code, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Amzn-Errortype", code)
		w.Header().Set("X-Amzn-Requestid", "5ca1ab1e-0000-4000-8000-000000000000")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func invokeFaults() []invokeFault {
	return []invokeFault{
		{"throttled", awsError(429, "TooManyRequestsException",
			`{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`), 0, "TooManyRequestsException"},
		{"service", awsError(500, "ServiceException", `{"Type":"Service","Message":"An error occurred and the request cannot be processed."}`), 503, "ServiceException"},
		{"unavailable", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html><body><b>Http/1.1 Service Unavailable</b></body> </html>", http.StatusServiceUnavailable)
		}, 503, "service"},
		{"denied", awsError(403, "AccessDeniedException",
			`{"Message":"User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform: lambda:InvokeFunction"}`), 502, "AccessDeniedException"},
		{"missing", awsError(404, "ResourceNotFoundException",
			`{"Type":"User","Message":"Function not found: arn:aws:lambda:us-east-1:123456789012:function:missing"}`), 502, "ResourceNotFoundException"},
		{"initerror", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			w.Header().Set("X-Amz-Executed-Version", "$LATEST")
			_, _ = io.WriteString(w, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 1 Error: Runtime exited with error: exit status 1"}`)
		}, 503, "Runtime.ExitError"},
		{"reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503, "unreachable"},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, ""},
	}
}

// faultyInvokeAPI stands between the router and a local Lambda, and invokes the
// function "app" there for every function, unless it is told to fail.
type faultyInvokeAPI struct {
	*httptest.Server

	mu      sync.Mutex
	failing bool           // guarded by mu
	seen    map[string]int // guarded by mu: invocations by function while failing
}

func startFaultyInvokeAPI(t *testing.T, back string, faults []invokeFault) *faultyInvokeAPI {
	t.Helper()
	target, err := url.Parse(back)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]http.HandlerFunc)
	for _, f := range faults {
		answers[f.name] = f.answer
	}
	api := &faultyInvokeAPI{seen: make(map[string]int)}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Path = "/2015-03-31/functions/app/invocations"
		r.SetURL(target)
	}}
	api.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		function := strings.Split(r.URL.Path, "/")[3]
		api.mu.Lock()
		failing := api.failing
		if failing {
			api.seen[function]++
		}
		api.mu.Unlock()
		if failing {
			_, _ = io.Copy(io.Discard, r.Body)
			answers[function](w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	return api
}

// fail makes the faults begin or end.
func (a *faultyInvokeAPI) fail(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failing = on
}

// Every fault of the Invoke API at once, each on a function of its own, between
// the router and a Lambda that is well. Few invocations are made, clients are
// told at once why they are not served, and all are served soon after the
// faults are over.
func TestInvokeFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for backoffs of seconds")
	}
	const (
		lasts        = 5 * time.Second
		startsMost   = 20 // per function: two rounds of 4, then one at a time
		recoveryMost = 20 * time.Second
	)
	faults := invokeFaults()
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
	api := startFaultyInvokeAPI(t, l.endpoint, faults)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	var site strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&site, `handle_path /%[1]s/* {
	lambda_dispatch %[1]s {
		max_instances 4
		max_concurrent 2
		idle_timeout 1s
		callback {
			listen 127.0.0.1:0
		}
		invoker aws {
			region us-east-1
			endpoint %[2]s
		}
	}
}
`, f.name, api.URL)
	}
	r := startCaddy(t, site.String())
	for _, f := range faults { // start times are learnt
		if status, body := r.get("/" + f.name + "/ping"); status != 200 {
			t.Fatalf("%s: status %d, %s", f.name, status, body)
		}
	}
	r.await("all instances to go", func() bool { return len(r.logs.lines("instance closed")) == len(faults) })

	api.fail(true)
	begin := time.Now()
	var repaired time.Time
	isRepaired := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), lasts+patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range faults {
		for range 4 {
			wg.Go(func() { f.ask(ctx, t, r, begin.Add(lasts/2), isRepaired, &repaired, recoveryMost) })
		}
	}
	<-time.After(lasts) // the faults last so long: there is no event to wait for
	api.fail(false)
	repaired = time.Now()
	close(isRepaired)
	wg.Wait()

	api.mu.Lock()
	defer api.mu.Unlock()
	for _, f := range faults {
		n := api.seen[f.name]
		t.Logf("%s: %d invocations in %v", f.name, n, lasts)
		if n == 0 || n > startsMost {
			t.Errorf("%s: %d invocations in %v, want at most %d", f.name, n, lasts, startsMost)
		}
		named := f.cause == ""
		for _, e := range r.logs.lines("instance closed") {
			text, _ := e["error"].(string)
			named = named || strings.Contains(text, f.cause) && e["pool"] == f.name
		}
		if !named {
			t.Errorf("%s: the log does not name the cause", f.name)
		}
	}
}

// ask sends requests until one is served, and checks what it gets: from settled
// on a quick error if the fault is one that clients are told of; and soon after
// the repair an answer.
func (f invokeFault) ask(ctx context.Context, t *testing.T, r *router, settled time.Time, isRepaired <-chan struct{}, repaired *time.Time, most time.Duration) {
	for ctx.Err() == nil {
		begin := time.Now()
		resp, body, err := r.do(http.MethodGet, "/"+f.name+"/ping", nil)
		took := time.Since(begin)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			return
		}
		if resp.StatusCode == http.StatusOK {
			select {
			case <-isRepaired:
				since := time.Since(*repaired)
				if since > most {
					t.Errorf("%s: served %v after the repair", f.name, since)
				}
				t.Logf("%s: served %v after the repair", f.name, since.Round(time.Millisecond))
			default:
				t.Errorf("%s: served while nothing can be started", f.name)
			}
			return
		}
		if resp.StatusCode != f.status || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, Retry-After %q, body %q; want %d", f.name, resp.StatusCode, resp.Header.Get("Retry-After"), body, f.status)
			return
		}
		if begin.After(settled) && took > 3*time.Second {
			t.Errorf("%s: the answer took %v", f.name, took)
		}
		select {
		case <-time.After(100 * time.Millisecond): // clients that are told off come back a little later
		case <-ctx.Done():
		}
	}
	t.Errorf("%s: never served", f.name)
}

// Requests on an instance that is ready do not notice that no other can be
// started, though more are wanted.
func TestInvokeFaultsDoNotDisturbReadyInstances(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for backoffs of seconds")
	}
	for _, f := range invokeFaults() {
		if f.name != "denied" && f.name != "reset" && f.name != "silent" {
			continue // these three differ most
		}
		t.Run(f.name, func(t *testing.T) {
			f.name = "app"
			l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
			api := startFaultyInvokeAPI(t, l.endpoint, []invokeFault{f})
			t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
			r := startCaddy(t, dispatch("min_instances 1", "max_concurrent 4", "target_concurrent 1",
				"callback {\n listen 127.0.0.1:0\n}", "invoker aws {\n region us-east-1\n endpoint "+api.URL+"\n}"))
			r.await("an instance", func() bool { return r.pool().in("ready") == 1 })
			api.fail(true)
			stop := r.send(load{clients: 8, path: "/delay?delay=50"}) // twice what it can take
			r.await("two attempts", func() bool {
				api.mu.Lock()
				defer api.mu.Unlock()
				return api.seen["app"] >= 2
			})
			if n := stop(); n == 0 {
				t.Error("nothing was served")
			}
		})
	}
}

// An app that is ready, and soon after has crashed, over and over: clients are
// told, and invocations are few.
func TestAppThatCrashesWhenItIsReady(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for backoffs of seconds")
	}
	const lasts = 12 * time.Second
	r := startCaddy(t, dispatch("max_concurrent 1", "max_instances 20", "queue_timeout 50s",
		local(`command sh -c "`+demoBin+` & sleep 1; kill -9 $!; exit 3"`)))
	begin := time.Now()
	var mu sync.Mutex // guards statuses
	statuses := make(map[int]int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for time.Since(begin) < lasts {
				resp, _, err := r.do(http.MethodGet, "/delay?delay=5000", nil) // longer than the app lives
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				statuses[resp.StatusCode]++
				mu.Unlock()
				<-time.After(50 * time.Millisecond) // clients that are told off come back a little later
			}
		})
	}
	wg.Wait()
	started, _ := r.invocations()
	took := time.Since(begin)
	t.Logf("%d invocations in %v, statuses %v", started, took, statuses)
	if most := 12 + int(took/time.Second); started > most {
		t.Errorf("%d invocations in %v, want at most %d", started, took, most)
	}
	if statuses[503] < 20 || statuses[200] > 0 {
		t.Errorf("statuses %v: clients are not told at once", statuses)
	}
	for _, e := range r.logs.lines("instance closed") {
		if text, _ := e["error"].(string); strings.Contains(text, "app exited") {
			return
		}
	}
	t.Error("the log does not name the cause")
}
