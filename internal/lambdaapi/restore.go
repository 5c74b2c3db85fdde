package lambdaapi

import (
	"context"
	"net/http"
)

// RestoreNext tells Lambda that a function with SnapStart is ready for its
// snapshot, and returns in each environment that is restored from it: the call
// spans the snapshot, and the time since it began means nothing. What follows
// is the restore hook, at most ten seconds, which the first Next ends. It is
// allowed once, before the first Next, and only if AWS_LAMBDA_INITIALIZATION_TYPE
// is "snap-start".
//
// Source: "Implementing SnapStart hooks for container images",
// https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-custom.html
func (c *Client) RestoreNext(ctx context.Context) error {
	resp, err := c.call(ctx, http.MethodGet, runtimeVersion+"/runtime/restore/next", nil, nil, http.StatusOK)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// RestoreError tells Lambda that the restore hook has failed. It is allowed
// between RestoreNext and the first Next; the caller then exits.
func (c *Client) RestoreError(ctx context.Context, e *FunctionError) error {
	return c.post(ctx, runtimeVersion+"/runtime/restore/error", runtimeErrorHeader(e), encodeError(e))
}
