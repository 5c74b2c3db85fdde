package awslambda

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// credentialsError is a call that was not made for lack of credentials. The SDK
// has no type for that, and the causes in it look like those of the call.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// markedCredentials makes credentialsErrors.
type markedCredentials struct{ aws.CredentialsProvider }

func (m markedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		err = &credentialsError{err}
	}
	return c, err
}
