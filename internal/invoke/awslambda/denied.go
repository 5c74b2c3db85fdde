package awslambda

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// The types of policies, as AWS names them when one denies access.
const (
	policyIdentity = "identity-based policy"
	policyResource = "resource-based policy"
	policyEndpoint = "vpc endpoint policy"
	policyBoundary = "permissions boundary"
	policySession  = "session policy"
	policyService  = "service control policy"
	policyControl  = "resource control policy"
)

// denial is the reason that AWS gives in the message of an access denied error.
// Not all of its services give one, nor to all callers.
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
type denial struct {
	explicit bool   // a statement denies it; else no statement allows it
	policy   string // the type of the policy; empty if no reason is given
	arn      string // of the policy, if it is told
}

var (
	// The last type counts: "in a VPC endpoint policy transitively through a
	// service control policy" is about the latter. AWS's page has "a sessions
	// policy", too.
	denialReason = regexp.MustCompile(`(?i)(because no|with an explicit deny in (?:an?|the)) ` + policyTypes +
		`(?: transitively through (?:an?|the) ` + policyTypes + `)?`)

	// Since 2026 the policy itself may be told at the end of the message.
	// Source: https://aws.amazon.com/blogs/security/enhanced-access-denied-error-messages-with-policy-arns
	policyARN = regexp.MustCompile(`\barn:aws[a-z-]*:(?:iam|organizations)::[\w/:+=,.@-]*\w`)
)

const policyTypes = `(` + policyIdentity + `|` + policyResource + `|` + policyEndpoint + `|` + policyBoundary +
	`|sessions? policy|` + policyService + `|` + policyControl + `)`

// parseDenial reads the message of an access denied error. The reason is at its
// end, where what is logged of a long message has been cut off.
func parseDenial(message string) denial {
	message = strings.Join(strings.Fields(message), " ")
	at := denialReason.FindStringSubmatchIndex(message)
	if at == nil {
		return denial{}
	}
	d := denial{
		explicit: !strings.EqualFold(message[at[2]:at[3]], "because no"),
		policy:   message[at[4]:at[5]],
		arn:      policyARN.FindString(message[at[1]:]),
	}
	if at[6] >= 0 {
		d.policy = message[at[6]:at[7]]
	}
	d.policy = strings.Replace(strings.ToLower(d.policy), "sessions", "session", 1)
	return d
}

// hintForDenied says which policy has to change.
func (iv *Invoker) hintForDenied(e *invoke.Error) string {
	message := e.Message
	if api, ok := errors.AsType[smithy.APIError](e.Err); ok {
		message = api.ErrorMessage()
	}
	d := parseDenial(message)
	if d.explicit {
		return fmt.Sprintf("a Deny statement forbids the router lambda:InvokeFunction on %s, and no Allow outweighs it: "+
			"look into %s, and take the statement away or except the router's role from it", iv.function, iv.policyName(d))
	}
	switch d.policy {
	case "", policyIdentity:
		return fmt.Sprintf("allow the router's identity (on ECS the task role, not the execution role) lambda:InvokeFunction on %s; "+
			"if the function is in another account, its resource policy must allow that too", iv.function)
	case policyResource:
		return fmt.Sprintf("let the router in by the function's resource policy: aws lambda add-permission --function-name %s "+
			"--statement-id router --action lambda:InvokeFunction --principal ARN, with the ARN of the router's role", iv.function)
	case policyEndpoint:
		return fmt.Sprintf("the VPC endpoint that the router calls Lambda through does not let it: allow lambda:InvokeFunction on %s in %s",
			iv.function, iv.policyName(d))
	default:
		return fmt.Sprintf("a policy that limits what the router's role may do leaves this out: allow lambda:InvokeFunction on %s in %s",
			iv.function, iv.policyName(d))
	}
}

// policyName says where the policy is found.
func (iv *Invoker) policyName(d denial) string {
	service := "Lambda"
	if iv.region != "" {
		service = "com.amazonaws." + iv.region + ".lambda"
	}
	name := map[string]string{
		policyIdentity: "the identity-based policies of the router's role (on ECS the task role)",
		policyResource: "the function's resource-based policy (aws lambda get-policy --function-name " + iv.function + ")",
		policyEndpoint: "the policy of the VPC endpoint for " + service + " (aws ec2 modify-vpc-endpoint --policy-document)",
		policyBoundary: "the permissions boundary of the router's role",
		policySession:  "the session policy that the router's credentials were made with (Policy or PolicyArns of sts:AssumeRole)",
		policyService:  "the service control policies of the router's account, in AWS Organizations",
		policyControl:  "the resource control policies of the function's account, in AWS Organizations",
	}[d.policy]
	if d.arn != "" {
		return name + ", " + d.arn
	}
	return name
}
