package awslambda

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// refusal is what Lambda's Invoke API answers when it does not run the function.
func refusal(status int, code, body string) *lambdaStub {
	return &lambdaStub{status: status, body: body, header: http.Header{
		"X-Amzn-Errortype": {code}, "Content-Type": {"application/json"},
		"X-Amzn-Requestid": {"5ca1ab1e-0000-4000-8000-000000000000"},
	}}
}

// crash is what it answers when it has run the function in vain.
func crash(body string) *lambdaStub {
	return &lambdaStub{status: 200, body: body, header: http.Header{
		"X-Amz-Function-Error": {"Unhandled"}, "X-Amz-Executed-Version": {"$LATEST"}, "Content-Type": {"application/json"},
	}}
}

// Every failure that a new user meets, as Lambda and the SDK put it, says in one
// line what to change.
func TestHints(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer *lambdaStub
		kind   invoke.Kind
		want   []string
	}{
		{"access denied", refusal(403, "AccessDeniedException",
			`{"Message":"User: arn:aws:sts::123456789012:assumed-role/router/0123 is not authorized to perform: lambda:InvokeFunction on resource: arn:aws:lambda:eu-central-1:123456789012:function:shop because no identity-based policy allows the lambda:InvokeFunction action"}`),
			invoke.KindDenied, []string{"lambda:InvokeFunction on shop", "task role"}},
		{"credentials of nobody", refusal(403, "UnrecognizedClientException", `{"message":"The security token included in the request is invalid."}`),
			invoke.KindDenied, []string{"credentials are not valid"}},
		{"credentials that have expired", refusal(403, "ExpiredTokenException", `{"message":"The security token included in the request is expired"}`),
			invoke.KindDenied, []string{"renew", "role"}},
		{"the clock is wrong", refusal(403, "InvalidSignatureException",
			`{"message":"Signature expired: 20261008T204716Z is now earlier than 20261008T210000Z (20261008T210500Z - 5 min.)"}`),
			invoke.KindDenied, []string{"clock"}},
		{"wrong region, or no such function", refusal(404, "ResourceNotFoundException",
			`{"Type":"User","Message":"Function not found: arn:aws:lambda:eu-central-1:123456789012:function:shop"}`),
			invoke.KindMissing, []string{"name", "region", "eu-central-1", "AWS_REGION"}},
		{"network interface still pending", refusal(409, "ResourceConflictException",
			`{"Type":"User","message":"The operation cannot be performed at this time. The function is currently in the following state: Pending"}`),
			invoke.KindService, []string{"being created", "network interface", "get-function-configuration --function-name shop"}},
		{"network interface not ready", refusal(502, "ENINotReadyException", `{"Message":"ENI not ready"}`),
			invoke.KindService, []string{"network interface"}},
		{"woken up after weeks", refusal(502, "ResourceNotReadyException", `{"Message":"The function is inactive and its VPC connection is no longer available. Retry later"}`),
			invoke.KindService, []string{"woken up"}},
		{"reserved concurrency 0", refusal(429, "TooManyRequestsException",
			`{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`),
			invoke.KindThrottled, []string{"reserved concurrency is 0 or used up", "max_instances", "put-function-concurrency --function-name shop"}},
		{"account's concurrency used up", refusal(429, "TooManyRequestsException",
			`{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`),
			invoke.KindThrottled, []string{"account's concurrency", "quota"}},
		{"too many calls", refusal(429, "TooManyRequestsException", `{"Reason":"CallerRateLimitExceeded","Type":"User","message":"Rate exceeded"}`),
			invoke.KindThrottled, []string{"too many calls"}},
		{"throttled without a reason", refusal(429, "TooManyRequestsException", `{"message":"Rate exceeded"}`),
			invoke.KindThrottled, []string{"concurrency"}},
		{"execution role without a VPC", refusal(502, "EC2AccessDeniedException", `{"Message":"Need additional permissions to configure VPC settings."}`),
			invoke.KindRejected, []string{"AWSLambdaVPCAccessExecutionRole"}},
		{"subnet without addresses", refusal(502, "SubnetIPAddressLimitReachedException", `{"Message":"no more addresses"}`),
			invoke.KindRejected, []string{"subnets", "larger"}},
		{"no more network interfaces", refusal(502, "ENILimitReachedException", `{"Message":"limit"}`),
			invoke.KindService, []string{"quota"}},
		{"key not usable", refusal(502, "KMSAccessDeniedException", `{"Message":"Lambda was unable to decrypt the environment variables"}`),
			invoke.KindRejected, []string{"kms:Decrypt"}},
		{"security group is gone", refusal(502, "InvalidSecurityGroupIDException", `{"Message":"no such group"}`),
			invoke.KindRejected, []string{"security group that does not exist"}},
		{"denied in words that this version does not know", refusal(403, "BrandNewException", `{"Message":"no"}`),
			invoke.KindDenied, []string{"lambda:InvokeFunction"}},

		{"image for another processor", crash(`{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: 2f1a Error: fork/exec /lambdaadapter: exec format error"}`),
			invoke.KindFunction, []string{"another processor", "--platform", "architectures"}},
		{"extension for another processor", crash(`{"errorType":"Extension.LaunchError","errorMessage":"RequestId: 2f1a Error: fork/exec /opt/extensions/lambdaadapter: exec format error"}`),
			invoke.KindFunction, []string{"another processor"}},
		{"no such entry point", crash(`{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: 2f1a Error: fork/exec /lambdaadapter: no such file or directory"}`),
			invoke.KindFunction, []string{"exists there and is executable"}},
		{"function timeout too short", crash(`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 2f1a Error: Task timed out after 3.00 seconds"}`),
			invoke.KindFunction, []string{"timeout", "--function-name shop --timeout 900"}},
		{"function timeout too short, the older text", crash(`{"errorMessage":"2026-10-08T20:47:16.053Z 2f1a Task timed out after 3.00 seconds"}`),
			invoke.KindFunction, []string{"--timeout 900"}},
		{"out of memory", crash(`{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 2f1a Error: Runtime exited with error: signal: killed"}`),
			invoke.KindFunction, []string{"memory"}},
		{"app crashes", crash(`{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 2f1a Error: Runtime exited with error: exit status 1"}`),
			invoke.KindFunction, []string{"aws logs tail", "--function-name shop --query LoggingConfig.LogGroup"}},
		{"extension crashes", crash(`{"errorType":"Extension.Crash","errorMessage":"RequestId: 2f1a Error: exit code 1"}`),
			invoke.KindFunction, []string{"aws logs tail", "--function-name shop --query LoggingConfig.LogGroup"}},
		{"no adapter", &lambdaStub{status: 200, body: `{"statusCode":200,"body":"hello"}`},
			invoke.KindAlien, []string{"without the adapter", "/opt/extensions"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
			iv, err := New(t.Context(), Options{Function: "shop", Region: "eu-central-1", Endpoint: serveHTTP(t, tc.answer.ServeHTTP)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
			checkHint(t, err, tc.kind, tc.want)
		})
	}
}

func checkHint(t *testing.T, err error, kind invoke.Kind, want []string) {
	t.Helper()
	e, ok := errors.AsType[*invoke.Error](err)
	if !ok {
		t.Fatalf("error is %v", err)
	}
	if e.Kind != kind {
		t.Errorf("kind is %s, want %s (%v)", e.Kind, kind, e)
	}
	for _, w := range want {
		if !strings.Contains(e.Hint, w) {
			t.Errorf("hint %q does not say %q", e.Hint, w)
		}
	}
	if strings.Contains(e.Hint, "\n") {
		t.Errorf("hint %q is more than one line", e.Hint)
	}
}

// elsewhere keeps what this machine has of AWS out of a test.
func elsewhere(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// What goes wrong before a call is made.
func TestHintsWithoutACall(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		env  map[string]string
		kind invoke.Kind
		want []string
	}{
		{"no credentials", Options{Region: "eu-central-1"}, nil, invoke.KindRejected, []string{"credentials", "task role", "AWS_ACCESS_KEY_ID"}},
		{"no credentials, and nobody who could give some", Options{Region: "eu-central-1"},
			map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"},
			invoke.KindRejected, []string{"credentials", "task role"}},
		{"no region", Options{Anonymous: true}, nil, invoke.KindRejected, []string{"which region", "AWS_REGION"}},
		{"a region that does not exist", Options{Region: "eu-centrall-1", Endpoint: "https://lambda.eu-centrall-1.invalid", Anonymous: true}, nil,
			invoke.KindUnreachable, []string{"lambda.eu-centrall-1.invalid", `"eu-centrall-1"`, "interface endpoint"}},
		{"no way out", Options{Region: "eu-central-1", Endpoint: "http://127.0.0.1:1", Anonymous: true}, nil,
			invoke.KindUnreachable, []string{"NAT gateway", "com.amazonaws.eu-central-1.lambda"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			elsewhere(t)
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			tc.o.Function = "shop"
			iv, err := New(t.Context(), tc.o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
			checkHint(t, err, tc.kind, tc.want)
		})
	}
}

// The local Lambda is configured elsewhere than AWS's.
func TestHintsOfTheLocalLambda(t *testing.T) {
	answer := crash(`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 2f1a Error: Task timed out after 3.00 seconds"}`)
	_, err := serve(t, answer, "shop").Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
	checkHint(t, err, invoke.KindFunction, []string{"timeout", "in invoker local", "in this log"})
}

// A connection that breaks while an invocation runs is nobody's mistake.
func TestABrokenConnectionHasNoHint(t *testing.T) {
	srv := serveHTTP(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	iv, err := New(t.Context(), Options{Function: "shop", Region: "eu-central-1", Endpoint: srv, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
	if e, ok := errors.AsType[*invoke.Error](err); !ok || e.Kind != invoke.KindUnreachable || e.Hint != "" {
		t.Errorf("got %#v", err)
	}
}
