//go:build unix

package locallambda

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
)

func input(change func(*lambda.InvokeInput)) *lambda.InvokeInput {
	in := &lambda.InvokeInput{FunctionName: aws.String("app"), Payload: []byte(`{"do":"header"}`)}
	change(in)
	return in
}

func TestEveryFormOfAName(t *testing.T) {
	b := newBench(t)
	b.deploy()
	arn := "arn:aws:lambda:eu-west-1:123456789012:function:app"
	for _, c := range []struct{ name, qualifier, arn string }{
		{"app", "", ""},
		{"app:live", "", ":live"},
		{"app", "live", ":live"},
		{"app:live", "live", ":live"},
		{"app:7", "", ":7"},
		{"app:$LATEST", "", ""},
		{"app", "$LATEST", ""},
		{arn, "", ""},
		{arn + ":live", "", ":live"},
		{"123456789012:function:app", "live", ":live"},
	} {
		out, err := b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) {
			in.FunctionName = &c.name
			if c.qualifier != "" {
				in.Qualifier = &c.qualifier
			}
		}))
		if err != nil {
			t.Errorf("%s, %q: %v", c.name, c.qualifier, err)
			continue
		}
		var a answer
		if err := json.Unmarshal(out.Payload, &a); err != nil {
			t.Fatal(err)
		}
		want := "arn:aws:lambda:us-east-1:000000000000:function:app" + c.arn
		if got := a.Header.Get("Lambda-Runtime-Invoked-Function-Arn"); got != want {
			t.Errorf("%s, %q: function ARN is %s, want %s", c.name, c.qualifier, got, want)
		}
		if got := aws.ToString(out.ExecutedVersion); got != "$LATEST" {
			t.Errorf("%s: executed version is %q", c.name, got)
		}
	}
	if info := b.only(); info.Invocations != 10 {
		t.Errorf("%d invocations reached the environment", info.Invocations)
	}
}

func TestQualifiedFunctionsOfTheirOwn(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.Name = "app:live" })
	_, err := b.client.Invoke(t.Context(), input(func(*lambda.InvokeInput) {}))
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Errorf("app without a qualifier: %v", err)
	}
	_, err = b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) { in.Qualifier = aws.String("live") }))
	if err != nil {
		t.Errorf("app:live: %v", err)
	}
	if n := len(b.Environments("app:live")); n != 1 {
		t.Errorf("app:live has %d environments", n)
	}
}

func TestTypedErrors(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.MaxEnvironments = 1 })

	code := func(err error) string {
		if e, ok := errors.AsType[smithy.APIError](err); ok {
			return e.ErrorCode()
		}
		return fmt.Sprint(err)
	}
	invoke := func(change func(*lambda.InvokeInput)) error {
		t.Helper()
		_, err := b.client.Invoke(t.Context(), input(change))
		return err
	}

	t.Run("missing function", func(t *testing.T) {
		e, ok := errors.AsType[*types.ResourceNotFoundException](invoke(func(in *lambda.InvokeInput) { in.FunctionName = aws.String("other:live") }))
		if !ok || e.ErrorMessage() != "Function not found: arn:aws:lambda:us-east-1:000000000000:function:other:live" || aws.ToString(e.Type) != "User" {
			t.Errorf("got %#v", e)
		}
	})
	t.Run("bad name", func(t *testing.T) {
		if got := code(invoke(func(in *lambda.InvokeInput) { in.FunctionName = aws.String("a b") })); got != "ValidationException" {
			t.Error(got)
		}
	})
	t.Run("two qualifiers", func(t *testing.T) {
		err := invoke(func(in *lambda.InvokeInput) { in.FunctionName, in.Qualifier = aws.String("app:a"), aws.String("b") })
		if _, ok := errors.AsType[*types.InvalidParameterValueException](err); !ok {
			t.Error(err)
		}
	})
	t.Run("not JSON", func(t *testing.T) {
		e, ok := errors.AsType[*types.InvalidRequestContentException](invoke(func(in *lambda.InvokeInput) { in.Payload = []byte(`{"a":`) }))
		if !ok || !strings.HasPrefix(e.ErrorMessage(), "Could not parse request body into json") || aws.ToString(e.Type) != "User" {
			t.Errorf("got %#v", e)
		}
	})
	t.Run("bad client context", func(t *testing.T) {
		err := invoke(func(in *lambda.InvokeInput) { in.ClientContext = aws.String("!") })
		if _, ok := errors.AsType[*types.InvalidRequestContentException](err); !ok {
			t.Error(err)
		}
	})
	t.Run("bad invocation type", func(t *testing.T) {
		err := invoke(func(in *lambda.InvokeInput) { in.InvocationType = "Sometimes" })
		if _, ok := errors.AsType[*types.InvalidParameterValueException](err); !ok {
			t.Error(err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		e, ok := errors.AsType[*types.RequestTooLargeException](invoke(func(in *lambda.InvokeInput) { in.Payload = jsonOfSize(maxRequest + 1) }))
		if !ok || e.ErrorMessage() != "6291457 byte payload is too large for the RequestResponse invocation type (limit 6291456 bytes)" {
			t.Errorf("got %#v", e)
		}
		err := invoke(func(in *lambda.InvokeInput) {
			in.Payload, in.InvocationType = jsonOfSize(maxEvent+1), types.InvocationTypeEvent
		})
		if _, ok := errors.AsType[*types.RequestTooLargeException](err); !ok {
			t.Error(err)
		}
	})
	t.Run("throttled", func(t *testing.T) {
		g := newGate(t)
		var busy sync.WaitGroup
		busy.Go(func() { b.invoke(order{Do: "gate", Arg: g.address()}) })
		v := g.next()
		e, ok := errors.AsType[*types.TooManyRequestsException](invoke(func(*lambda.InvokeInput) {}))
		if !ok || e.Reason != types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded ||
			aws.ToString(e.RetryAfterSeconds) != "1" || e.ErrorMessage() != "Rate Exceeded." {
			t.Errorf("got %#v", e)
		}
		v.let(t)
		busy.Wait()
	})
	t.Run("another operation", func(t *testing.T) {
		_, err := b.client.ListFunctions(t.Context(), &lambda.ListFunctionsInput{})
		if got := code(err); got != "UnknownOperationException" {
			t.Error(got)
		}
	})
	t.Run("closed", func(t *testing.T) {
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		e, ok := errors.AsType[*types.ServiceException](invoke(func(*lambda.InvokeInput) {}))
		if !ok || e.ErrorMessage() != ErrClosed.Error() {
			t.Errorf("got %#v", e)
		}
		if err := b.Deploy(testFunction()); !errors.Is(err, ErrClosed) {
			t.Errorf("Deploy: %v", err)
		}
	})
}

func jsonOfSize(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }

func TestPayloadsUpToTheLimits(t *testing.T) {
	b := newBench(t)
	b.deploy()
	largest := jsonOfSize(maxRequest)
	if _, err := b.call(largest); err != nil {
		t.Errorf("request of %d bytes: %v", len(largest), err)
	}

	out, err := b.call(order{Do: "large", N: maxResponse - 2})
	if err != nil {
		t.Fatal(err)
	}
	if out.FunctionError != nil || len(out.Payload) != maxResponse {
		t.Errorf("response of %d bytes: %q, %d bytes arrived", maxResponse, aws.ToString(out.FunctionError), len(out.Payload))
	}

	out, err = b.call(order{Do: "large", N: maxResponse - 1})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}`
	if aws.ToString(out.FunctionError) != "Unhandled" || string(out.Payload) != want {
		t.Errorf("response above the limit: %q: %s", aws.ToString(out.FunctionError), out.Payload)
	}
	a := b.invoke(order{Do: "statuses"})
	if fmt.Sprint(a.Status) != "[202 413]" {
		t.Errorf("the runtime got %v", a.Status)
	}
}

func TestHeadersOfAnInvocation(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.Timeout = time.Minute })
	before := time.Now()
	out, err := b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) {
		in.ClientContext = aws.String(base64.StdEncoding.EncodeToString([]byte("{\n\"client\": {\"id\": 1}}")))
		in.TenantId = aws.String("blue")
	}))
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(out.Payload, &a); err != nil {
		t.Fatal(err)
	}
	var ms int64
	if _, err := fmt.Sscan(a.Header.Get("Lambda-Runtime-Deadline-Ms"), &ms); err != nil {
		t.Fatal(err)
	}
	if left := time.UnixMilli(ms).Sub(before); left < 59*time.Second || left > time.Minute+patience {
		t.Errorf("deadline is in %v", left)
	}
	if got := a.Header.Get("Lambda-Runtime-Trace-Id"); !strings.HasPrefix(got, "Root=1-") {
		t.Errorf("trace ID is %q", got)
	}
	if got := a.Header.Get("Lambda-Runtime-Client-Context"); got != `{"client":{"id":1}}` {
		t.Errorf("client context is %q", got)
	}
	if got := a.Header.Get("Lambda-Runtime-Aws-Tenant-Id"); got != "blue" {
		t.Errorf("tenant is %q", got)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/2015-03-31/functions/app/invocations", strings.NewReader(`{"do":"header"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amzn-Trace-Id", "Root=1-00000000-000000000000000000000001;Sampled=1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	a = answer{}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if got := a.Header.Get("Lambda-Runtime-Trace-Id"); got != req.Header.Get("X-Amzn-Trace-Id") {
		t.Errorf("trace ID is %q", got)
	}
	if id := resp.Header.Get("X-Amzn-Requestid"); id == "" || id != a.Header.Get("Lambda-Runtime-Aws-Request-Id") {
		t.Errorf("caller has request %q, runtime %q", id, a.Header.Get("Lambda-Runtime-Aws-Request-Id"))
	}
	if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Amz-Log-Result") != "" {
		t.Errorf("response header %v", resp.Header)
	}
}

func TestEmptyPayloadIsAnEmptyObject(t *testing.T) {
	b := newBench(t)
	b.deploy(env("INIT="))
	resp, err := http.Post(b.url+"/2015-03-31/functions/app/invocations", "", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !bytes.Contains(body, []byte(`"count":1`)) {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
}

func TestDryRunRunsNothing(t *testing.T) {
	b := newBench(t)
	b.deploy()
	out, err := b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) { in.InvocationType = types.InvocationTypeDryRun }))
	if err != nil || out.StatusCode != http.StatusNoContent {
		t.Errorf("%+v, %v", out, err)
	}
	if n := len(b.Environments("app")); n != 0 {
		t.Errorf("there are %d environments", n)
	}
}

// Events are accepted at once and wait where a call would be throttled.
func TestEventsWaitForAnEnvironment(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.MaxEnvironments = 1 })
	g := newGate(t)
	for range 3 {
		out, err := b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) {
			in.InvocationType = types.InvocationTypeEvent
			in.Payload = marshal(order{Do: "gate", Arg: g.address()})
		}))
		if err != nil || out.StatusCode != http.StatusAccepted {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	line := ""
	for range 3 {
		v := g.next()
		if line != "" && v.line != line {
			t.Errorf("ran in %q and in %q", line, v.line)
		}
		line = v.line
		if len(g.arrived) > 0 {
			t.Error("two events run at once")
		}
		v.let(t)
	}
}

func TestLogTail(t *testing.T) {
	b := newBench(t)
	b.deploy()
	tail := func(o order) string {
		out, err := b.client.Invoke(t.Context(), input(func(in *lambda.InvokeInput) {
			in.LogType, in.Payload = types.LogTypeTail, marshal(o)
		}))
		if err != nil {
			t.Fatal(err)
		}
		text, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := tail(order{Do: "print", Arg: "hello"})
	for _, want := range []string{"START RequestId: ", "\nEND RequestId: ", "\nREPORT RequestId: ", "Memory Size: 128 MB"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
	if text := tail(order{Do: "print", Arg: strings.Repeat("y", 100), N: 200}); len(text) > tailSize {
		t.Errorf("tail has %d bytes", len(text))
	}
}

func TestInvocationOutlivesItsCaller(t *testing.T) {
	b := newBench(t)
	b.deploy()
	g := newGate(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := b.client.Invoke(ctx, input(func(in *lambda.InvokeInput) { in.Payload = marshal(order{Do: "gate", Arg: g.address()}) }))
		left <- err
	}()
	v := g.next()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if info := b.only(); info.State != StateInvoking {
		t.Errorf("environment is %s", info.State)
	}
	v.let(t)
	eventually(t, "the invocation ends", func() bool { return b.only().State == StateIdle })
	if a := b.invoke(order{}); a.Count != 2 {
		t.Errorf("the next invocation is the environment's %d.", a.Count)
	}
}
