package locallambda

import (
	"fmt"
	"regexp"
)

const (
	region    = "us-east-1"
	accountID = "000000000000"
	latest    = "$LATEST"
)

// reference is a function as callers name it, taken apart.
type reference struct {
	name      string
	qualifier string // version or alias; empty means $LATEST
}

// referencePattern covers the forms that Invoke accepts: a name, a partial ARN
// (account:function:name) and a full one, each with or without a qualifier.
// https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
var referencePattern = regexp.MustCompile(
	`^(?:(?:arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:)?(?:\d{12}:)?function:)?([a-zA-Z0-9-_]{1,64})(?::(\$LATEST|[a-zA-Z0-9-_]{1,128}))?$`)

var qualifierPattern = regexp.MustCompile(`^(\$LATEST|[a-zA-Z0-9-_]{1,128})$`)

func parseReference(s string) (reference, error) {
	m := referencePattern.FindStringSubmatch(s)
	if m == nil {
		return reference{}, fmt.Errorf("%q is not a function name, name:qualifier or ARN", s)
	}
	ref := reference{name: m[1], qualifier: m[2]}
	if ref.qualifier == latest {
		ref.qualifier = ""
	}
	return ref, nil
}

// key identifies a deployed function.
func (r reference) key() string {
	if r.qualifier == "" {
		return r.name
	}
	return r.name + ":" + r.qualifier
}

func (r reference) arn() string {
	return "arn:aws:lambda:" + region + ":" + accountID + ":function:" + r.key()
}
