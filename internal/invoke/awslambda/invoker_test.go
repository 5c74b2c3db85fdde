package awslambda

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// lambdaStub answers every invocation with one prepared response, in the shape
// that AWS documents for it.
type lambdaStub struct {
	status  int
	header  http.Header
	body    string
	calls   atomic.Int32
	path    string
	payload []byte
}

func (s *lambdaStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	s.path = r.URL.EscapedPath()
	s.payload, _ = io.ReadAll(r.Body)
	maps.Copy(w.Header(), s.header)
	w.WriteHeader(s.status)
	_, _ = io.WriteString(w, s.body)
}

func serve(t *testing.T, s *lambdaStub, function string) *Invoker {
	t.Helper()
	url := serveHTTP(t, s.ServeHTTP)
	iv, err := New(t.Context(), Options{Function: function, Region: "eu-central-1", Endpoint: url, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	return iv
}

func serveHTTP(t *testing.T, h http.HandlerFunc) (url string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestInvokeSendsTheEventAndReadsTheResult(t *testing.T) {
	stub := &lambdaStub{status: 200, body: `{"instance":"i","reason":"drained","requests":7}`}
	iv := serve(t, stub, "arn:aws:lambda:eu-central-1:123456789012:function:shop:live")
	ev := invoke.NewEvent("shop", "10.0.0.1:7443", "", 10)
	res, err := iv.Invoke(t.Context(), ev)
	if err != nil {
		t.Fatal(err)
	}
	if res.Reason != invoke.ReasonDrained || res.Requests != 7 {
		t.Errorf("result is %+v", res)
	}
	got, err := invoke.ParseEvent(stub.payload)
	if err != nil || got.Instance != ev.Instance || string(got.Secret) != string(ev.Secret) {
		t.Errorf("payload is %s (%v)", stub.payload, err)
	}
	if want := "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Ashop%3Alive/invocations"; stub.path != want {
		t.Errorf("path is %s, want %s", stub.path, want)
	}
}

func TestFailuresAreToldApart(t *testing.T) {
	awsError := func(typ, message string) (http.Header, string) {
		b, _ := json.Marshal(map[string]string{"Message": message, "Type": "User"})
		return http.Header{"X-Amzn-Errortype": {typ}, "Content-Type": {"application/json"}}, string(b)
	}
	for _, tc := range []struct {
		name   string
		status int
		typ    string
		kind   invoke.Kind
	}{
		{"throttled", 429, "TooManyRequestsException", invoke.KindThrottled},
		{"throttled by EC2 while placing it in the VPC", 502, "EC2ThrottledException", invoke.KindThrottled},
		{"no permission", 403, "AccessDeniedException", invoke.KindDenied},
		{"expired credentials", 403, "ExpiredTokenException", invoke.KindDenied},
		{"no such function", 404, "ResourceNotFoundException", invoke.KindMissing},
		{"function being updated", 409, "ResourceConflictException", invoke.KindService},
		{"function waking up", 502, "ResourceNotReadyException", invoke.KindService},
		{"internal error", 500, "ServiceException", invoke.KindService},
		{"image cannot be run", 502, "InvalidRuntimeException", invoke.KindRejected},
		{"subnet has no address left", 502, "SubnetIPAddressLimitReachedException", invoke.KindRejected},
		{"malformed request", 400, "InvalidRequestContentException", invoke.KindRejected},
		{"payload too large", 413, "RequestTooLargeException", invoke.KindRejected},
		{"an error that this version does not know", 503, "BrandNewException", invoke.KindService},
		{"a client error that this version does not know", 418, "BrandNewException", invoke.KindRejected},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header, body := awsError(tc.typ, "what AWS says\nin two lines")
			stub := &lambdaStub{status: tc.status, header: header, body: body}
			_, err := serve(t, stub, "shop").Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
			var e *invoke.Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v", err)
			}
			if e.Kind != tc.kind || e.Code != tc.typ {
				t.Errorf("kind %s, code %s; want %s, %s", e.Kind, e.Code, tc.kind, tc.typ)
			}
			if !strings.Contains(e.Error(), "what AWS says in two lines") {
				t.Errorf("message is not one line of AWS's: %v", e)
			}
			if n := stub.calls.Load(); n != 1 {
				t.Errorf("%d calls were made: the SDK must not retry", n)
			}
		})
	}
}

func TestFunctionErrors(t *testing.T) {
	for _, tc := range []struct{ name, body, code, message string }{
		{"timed out", `{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 1 Error: Task timed out after 3.00 seconds"}`, "Sandbox.Timedout", "Task timed out after 3.00 seconds"},
		{"crashed", `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 1 Error: Runtime exited with error: exit status 1"}`, "Runtime.ExitError", "exit status 1"},
		{"says nothing", ``, "", "without saying why"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stub := &lambdaStub{status: 200, header: http.Header{"X-Amz-Function-Error": {"Unhandled"}}, body: tc.body}
			_, err := serve(t, stub, "shop").Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
			var e *invoke.Error
			if !errors.As(err, &e) || e.Kind != invoke.KindFunction || e.Code != tc.code || !strings.Contains(e.Error(), tc.message) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestAnswerOfSomethingElse(t *testing.T) {
	stub := &lambdaStub{status: 200, body: `{"statusCode":200,"body":"hello"}`}
	_, err := serve(t, stub, "shop").Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
	if kind := invoke.KindOf(err); kind != invoke.KindAlien {
		t.Errorf("kind is %s (%v)", kind, err)
	}
}

func TestUnreachableEndpoint(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	iv, err := New(t.Context(), Options{Function: "shop", Region: "r", Endpoint: "http://" + addr, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
	if kind := invoke.KindOf(err); kind != invoke.KindUnreachable {
		t.Errorf("kind is %s (%v)", kind, err)
	}
}

func TestNoRegionIsSaidAndPermanent(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	iv, err := New(t.Context(), Options{Function: "shop", Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
	if kind := invoke.KindOf(err); !kind.Permanent() || !strings.Contains(strings.ToLower(err.Error()), "region") {
		t.Errorf("kind is %s (%v)", kind, err)
	}
}

func TestCancelledInvokeReturnsTheContextsError(t *testing.T) {
	started := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(started)
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	iv, err := New(t.Context(), Options{Function: "shop", Region: "r", Endpoint: srv.URL, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := iv.Invoke(ctx, invoke.NewEvent("shop", "h:1", "", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
