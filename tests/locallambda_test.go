package tests

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// `caddy lambda-dispatch local-lambda` can be invoked by any AWS SDK.
func TestLocalLambdaOnItsOwn(t *testing.T) {
	cmd := exec.Command(caddyBin, "lambda-dispatch", "local-lambda", "--listen", "127.0.0.1:0", "--function", "shop", "--adapter", adapterBin, "--", demoBin)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	_, endpoint, found := strings.Cut(strings.TrimSpace(line), " at ")
	if err != nil || !found {
		t.Fatalf("first line %q, %v", line, err)
	}
	client := lambda.New(lambda.Options{
		Region:           "local",
		BaseEndpoint:     aws.String(endpoint),
		Credentials:      credentials.NewStaticCredentialsProvider("any", "any", ""),
		RetryMaxAttempts: 1,
	})

	res, err := client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("shop"), Payload: []byte(`{"Records":[]}`)})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(res.FunctionError) == "" || !strings.Contains(string(res.Payload), "dispatch event") {
		t.Errorf("a direct event was answered with %s", res.Payload)
	}

	_, err = client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("unknown")})
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Errorf("an unknown function was answered with %v", err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stopped = true
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
