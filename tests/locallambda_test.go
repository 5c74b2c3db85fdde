package tests

import (
	"errors"
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

	res, err := client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("app"), Payload: []byte(`{"Records":[]}`)})
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
}
