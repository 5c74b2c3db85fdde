package awslambda

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// hint returns what somebody has to change so that the invocation succeeds, in
// one line, or nothing if that is not known.
func (iv *Invoker) hint(e *invoke.Error) string {
	if e.Kind == invoke.KindFunction {
		return iv.hintForFunctionError(e)
	}
	if hint := iv.hintForCode(e); hint != "" {
		return hint
	}
	if _, ok := errors.AsType[*credentialsError](e.Err); ok {
		return "give the router AWS credentials: a task role on ECS, an instance profile on EC2, a service account's role on EKS, " +
			"or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	}
	if dns, ok := errors.AsType[*net.DNSError](e.Err); ok {
		return fmt.Sprintf("there is no %s: check the region (it is %q, from region in invoker aws or AWS_REGION); "+
			"in a VPC without internet access make an interface endpoint for com.amazonaws.%s.lambda with private DNS", dns.Name, iv.region, iv.region)
	}
	if op, ok := errors.AsType[*net.OpError](e.Err); ok && op.Op == "dial" {
		return fmt.Sprintf("the Invoke API cannot be reached: the router needs a way out over HTTPS, by a NAT gateway or a public address, "+
			"or an interface endpoint for com.amazonaws.%s.lambda that its security group may reach", iv.region)
	}
	switch e.Kind {
	case invoke.KindAlien:
		return "the function runs without the adapter: make lambdaadapter the entry point of its image, or put it into /opt/extensions"
	case invoke.KindDenied:
		return iv.hintForDenied(e)
	case invoke.KindRejected:
		if iv.region == "" && !iv.hasEndpoint {
			return "say which region the function is in: region in invoker aws, or AWS_REGION"
		}
		return ""
	default:
		return ""
	}
}

func (iv *Invoker) hintForCode(e *invoke.Error) string {
	switch e.Code {
	case "AccessDeniedException":
		return iv.hintForDenied(e)
	case "ExpiredTokenException", "InvalidSignatureException", "MissingAuthenticationTokenException", "UnrecognizedClientException":
		return "the router's AWS credentials are not valid: renew them, or better use a role; and check the machine's clock, which signatures depend on"
	case "ResourceNotFoundException":
		return fmt.Sprintf("check the function's name, qualifier and account, and its region: the router asked in %s, "+
			"which region in invoker aws or AWS_REGION changes", quoted(iv.region))
	case "TooManyRequestsException":
		return iv.hintForThrottle(e)
	case "ThrottlingException":
		return hintCallerRate
	case "ResourceConflictException", "ResourceNotReadyException", "ENINotReadyException", "CodeArtifactUserPendingException", "SnapStartNotReadyException":
		return "the function is being created, updated or woken up, with its network interface if it is in a VPC; that takes up to some minutes. " +
			"If it lasts, see why: aws lambda get-function-configuration --function-name " + iv.function + " --query '[State,StateReason,LastUpdateStatusReason]'"
	case "EC2AccessDeniedException":
		return "allow the function's execution role to make network interfaces: attach the policy AWSLambdaVPCAccessExecutionRole to it"
	case "EC2ThrottledException", "ENILimitReachedException":
		return "EC2 gives the function no more network interfaces for now: ask AWS for a larger quota of them, or use fewer subnets and functions in the VPC"
	case "SubnetIPAddressLimitReachedException":
		return "the function's subnets have no address left: give it larger or more ones"
	case "InvalidSubnetIDException", "InvalidSecurityGroupIDException":
		return "the function's VPC configuration names a subnet or security group that does not exist: correct it"
	case "InvalidRuntimeException", "InvalidZipFileException":
		return "Lambda cannot run the function's code as it is configured: deploy it again, with a runtime that Lambda supports"
	case "KMSAccessDeniedException", "KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException":
		return "the key that encrypts the function's environment variables or image cannot be used: enable it, and allow the function's execution role kms:Decrypt on it"
	case "EFSMountConnectivityException", "EFSMountFailureException", "EFSMountTimeoutException", "EFSIOException":
		return "the function cannot use its EFS file system: check its mount targets, security groups (TCP 2049) and access point"
	default:
		return ""
	}
}

const hintCallerRate = "too many calls to the Lambda API are made from this account: see who makes them, or ask AWS for a larger quota"

func (iv *Invoker) hintForThrottle(e *invoke.Error) string {
	var reason types.ThrottleReason
	if throttled, ok := errors.AsType[*types.TooManyRequestsException](e.Err); ok {
		reason = throttled.Reason
	}
	switch reason {
	case types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded:
		return fmt.Sprintf("the function's reserved concurrency is 0 or used up: set it to at least max_instances times the number of routers times 2, "+
			"because a deployment doubles the routers for a while (aws lambda put-function-concurrency --function-name %s --reserved-concurrent-executions N), or lower max_instances", iv.function)
	case types.ThrottleReasonConcurrentInvocationLimitExceeded:
		return "the account's concurrency in this region is used up: ask AWS for a larger quota (new accounts have as little as 10), reserve some for this function, or lower max_instances"
	case types.ThrottleReasonFunctionInvocationRateLimitExceeded, types.ThrottleReasonReservedFunctionInvocationRateLimitExceeded,
		types.ThrottleReasonCallerRateLimitExceeded:
		return hintCallerRate
	default:
		return "Lambda has no room for more of this function's environments: raise its reserved concurrency or the account's quota, or lower max_instances"
	}
}

// hintForFunctionError is about a function that was run and failed. Lambda puts
// the cause into the message; the type names the part only that failed.
func (iv *Invoker) hintForFunctionError(e *invoke.Error) string {
	switch {
	case strings.Contains(e.Message, "exec format error"):
		return "the image, or the adapter or app in it, is built for another processor than the function has: " +
			"build it with --platform linux/arm64 or linux/amd64, or change the function's architectures"
	case e.Code == "Runtime.InvalidEntrypoint", e.Code == "Extension.LaunchError":
		return "Lambda cannot start what the function's image names: check that the entry point, or the file in /opt/extensions, exists there and is executable"
	case e.Code == "Sandbox.Timedout", strings.Contains(e.Message, "Task timed out after"):
		return "the function's timeout is too short for the app to start and the adapter to reach the router, or the app hung: set it to 900 s (" +
			iv.update("timeout", "900") + "), and " + iv.seeOutput()
	case e.Code == "Runtime.OutOfMemory", strings.Contains(e.Message, "signal: killed"):
		return "the function was killed, most likely for lack of memory: give it more (" + iv.update("memory-size", "N") + "), and " + iv.seeOutput()
	default:
		return "the app or the adapter ends when it should serve: " + iv.seeOutput()
	}
}

// update says how a setting of the function is changed.
func (iv *Invoker) update(setting, value string) string {
	if iv.local {
		return "in invoker local"
	}
	return "aws lambda update-function-configuration --function-name " + iv.function + " --" + setting + " " + value
}

// seeOutput says where the function's output is.
func (iv *Invoker) seeOutput() string {
	if iv.local {
		return "see what it printed, in this log"
	}
	return `see what it printed: aws logs tail "$(aws lambda get-function-configuration --function-name ` + iv.function +
		` --query LoggingConfig.LogGroup --output text)"`
}

func quoted(region string) string {
	if region == "" {
		return "the one of its endpoint"
	}
	return region
}
