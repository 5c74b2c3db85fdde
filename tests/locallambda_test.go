package tests

import (
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// `caddy lambda-dispatch local-lambda` can be invoked by any AWS SDK, and ends in
// order, which startLocalLambda checks.
func TestLocalLambdaOnItsOwn(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
	client := lambda.New(lambda.Options{
		Region:           "local",
		BaseEndpoint:     aws.String(l.endpoint),
		Credentials:      credentials.NewStaticCredentialsProvider("any", "any", ""),
		RetryMaxAttempts: 1,
	})

	res, err := client.Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("app"), Payload: urlEvent(http.MethodGet, "/ping", "", nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := proxyResultOf(t, string(res.Payload)); res.FunctionError != nil || got.StatusCode != 200 || got.Body != "pong" {
		t.Errorf("a direct event was answered with %s", res.Payload)
	}

	_, err = client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("unknown")})
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Errorf("an unknown function was answered with %v", err)
	}
}

// An app whose adapter is an extension, invoked with a stream.
func TestLocalLambdaStreams(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--no-adapter", "--extension", adapterBin, "--max-concurrency", "4")
	client := lambda.New(lambda.Options{
		Region:           "local",
		BaseEndpoint:     aws.String(l.endpoint),
		Credentials:      credentials.NewStaticCredentialsProvider("any", "any", ""),
		RetryMaxAttempts: 1,
	})
	res, err := client.InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{
		FunctionName: aws.String("app"), Payload: []byte(`{"Records":[]}`), LogType: types.LogTypeTail,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer res.GetStream().Close()
	var last types.InvokeWithResponseStreamResponseEvent
	for ev := range res.GetStream().Events() {
		last = ev
	}
	end, ok := last.(*types.InvokeWithResponseStreamResponseEventMemberInvokeComplete)
	if !ok || aws.ToString(end.Value.LogResult) == "" || aws.ToString(res.ExecutedVersion) != "$LATEST" {
		t.Errorf("the last event is %+v", last)
	}
}

func TestLocalLambdaRefusesNonsense(t *testing.T) {
	for want, flags := range map[string][]string{
		"SnapStart and several invocations at once exclude each other": {"--snap-start", "--max-concurrency", "2"},
		`--no-adapter needs a command`:                                 {"--no-adapter"},
		"6 layers, at most 5": {"--layer", "a", "--layer", "b", "--layer", "c",
			"--layer", "d", "--layer", "e", "--layer", "f"},
	} {
		args := append([]string{"lambda-dispatch", "local-lambda", "--listen", "127.0.0.1:0"}, flags...)
		out, err := exec.CommandContext(t.Context(), caddyBin, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %v\n%s", flags, err, out)
		}
	}
}
