package awslambda

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

const (
	deniedCall = "User: arn:aws:sts::123456789012:assumed-role/router/0123456789abcdef0123456789abcdef is not authorized to perform: " +
		"lambda:InvokeFunction on resource: arn:aws:lambda:eu-central-1:123456789012:function:shop"
	boundaryARN = "arn:aws:iam::123456789012:policy/limits/Developers"
	serviceARN  = "arn:aws:organizations::987654321098:policy/o-qv5af4abcd/service_control_policy/p-2kgnabcd"
)

// The forms are those of AWS's page on access denied messages.
func TestTheDenyingPolicyIsNamed(t *testing.T) {
	none := func(policy string) string {
		return deniedCall + " because no " + policy + " allows the lambda:InvokeFunction action"
	}
	explicit := func(policy string) string { return deniedCall + " with an explicit deny in " + policy }
	for _, tc := range []struct {
		message string
		begins  string
		says    []string
	}{
		{deniedCall, "allow the router's identity", []string{"task role"}},
		{"Access denied", "allow the router's identity", []string{"task role"}},
		{none("identity-based policy"), "allow the router's identity", []string{"task role"}},
		{none("resource-based policy"), "let the router in by the function's resource policy", []string{"add-permission --function-name shop"}},
		{none("VPC endpoint policy"), "the VPC endpoint", []string{"does not let it", "lambda:InvokeFunction on shop", "com.amazonaws.eu-central-1.lambda", "modify-vpc-endpoint"}},
		{none("permissions boundary"), "a policy that limits", []string{"lambda:InvokeFunction on shop in the permissions boundary"}},
		{none("session policy"), "a policy that limits", []string{"session policy", "sts:AssumeRole"}},
		{none("service control policy"), "a policy that limits", []string{"service control policies of the router's account"}},
		{none("permissions boundary") + ": " + boundaryARN, "a policy that limits", []string{"permissions boundary", boundaryARN}},

		{explicit("an identity-based policy"), "a Deny statement", []string{"identity-based policies of the router's role"}},
		{explicit("a resource-based policy"), "a Deny statement", []string{"resource-based policy", "get-policy --function-name shop"}},
		{explicit("a VPC endpoint policy"), "a Deny statement", []string{"VPC endpoint for com.amazonaws.eu-central-1.lambda"}},
		{explicit("a permissions boundary"), "a Deny statement", []string{"permissions boundary of the router's role"}},
		{explicit("a session policy"), "a Deny statement", []string{"session policy"}},
		{explicit("a sessions policy"), "a Deny statement", []string{"session policy"}},
		{explicit("a service control policy"), "a Deny statement", []string{"service control policies"}},
		{explicit("a service control policy: " + serviceARN), "a Deny statement", []string{"service control policies", serviceARN}},
		{explicit("a resource control policy, with policy ARN:\n" + serviceARN + "."), "a Deny statement", []string{"resource control policies of the function's account", serviceARN}},
		{explicit("a VPC endpoint policy transitively through a service control policy"), "a Deny statement", []string{"service control policies"}},
		{explicit("a\nservice control policy"), "a Deny statement", []string{"service control policies"}},
		// A name that is as long as a name may be: the reason is not in what is logged.
		{strings.ReplaceAll(none("VPC endpoint policy"), "function:shop", "function:"+strings.Repeat("s", 300)), "the VPC endpoint", nil},
	} {
		t.Run(tc.message[max(0, len(tc.message)-70):], func(t *testing.T) {
			body, err := json.Marshal(map[string]string{"Message": tc.message})
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
			iv, err := New(t.Context(), Options{Function: "shop", Region: "eu-central-1",
				Endpoint: serveHTTP(t, refusal(403, "AccessDeniedException", string(body)).ServeHTTP)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = iv.Invoke(t.Context(), invoke.NewEvent("shop", "h:1", "", 1))
			checkHint(t, err, invoke.KindDenied, append(tc.says, tc.begins))
		})
	}
}

// What is not the reason's is nobody's policy: not the caller's ARN, and not a
// name that the caller has chosen.
func TestParseDenial(t *testing.T) {
	for message, want := range map[string]denial{
		"": {},
		"User: arn:aws:iam::123456789012:user/x is not authorized":                                         {},
		"User: arn:aws:iam::123456789012:user/x because no session policy allows the action":               {policy: policySession},
		"with an explicit deny in a service control policy: <script>":                                      {explicit: true, policy: policyService},
		"with an explicit deny in an identity-based policy: arn:aws-cn:iam::1:policy/a.":                   {explicit: true, policy: policyIdentity, arn: "arn:aws-cn:iam::1:policy/a"},
		"with an explicit deny in a policy of a type that did not exist in 2026":                           {},
		"User: because is not authorized to perform: x with an EXPLICIT DENY in a Permissions Boundary":    {explicit: true, policy: policyBoundary},
		"with an explicit deny in a VPC endpoint policy transitively through a service control policy: no": {explicit: true, policy: policyService},
	} {
		if got := parseDenial(message); got != want {
			t.Errorf("%q: got %+v, want %+v", message, got, want)
		}
	}
}
