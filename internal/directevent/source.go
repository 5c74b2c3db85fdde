package directevent

import "slices"

// Source is what sent an event.
type Source int

// The sources. Those up to VPCLatticeV2 are HTTP.
const (
	// Unknown is every event that looks like none of the others, as what a
	// developer's own call of Invoke, a Step Functions task or an IoT rule
	// sends: nothing but the developer's data.
	Unknown Source = iota

	RESTAPI      // API Gateway REST API
	HTTPAPI      // API Gateway HTTP API, with either version of the payload
	FunctionURL  // has the payload 2.0 of HTTP APIs
	ALB          // Application Load Balancer
	VPCLatticeV1 // VPC Lattice, event structure V1
	VPCLatticeV2 // VPC Lattice, event structure V2

	WebSocketAPI // API Gateway WebSocket API: CONNECT, MESSAGE and DISCONNECT
	Authorizer   // API Gateway asks whether a request may pass
	AppSync
	BedrockAgent
	CloudFormation // custom resources
	CodeCommit
	CodePipeline
	Cognito // triggers of user pools and identity pools
	Config
	Connect
	DocumentDB
	DynamoDB
	EventBridge
	Firehose
	IoT // buttons; the events of IoT rules have any shape
	Kafka
	Kinesis
	Lex
	Logs // CloudWatch Logs
	MQ
	S3
	S3Batch
	S3Object // S3 Object Lambda
	Scheduler
	SecretsManager
	SES
	SNS
	SQS
	StepFunctions // that pass the context object on
)

// sourceNames are the keys of [Options.Routes] and stay as they are.
var sourceNames = [...]string{
	Unknown: "unknown",
	RESTAPI: "rest-api", HTTPAPI: "http-api", FunctionURL: "function-url", ALB: "alb",
	VPCLatticeV1: "lattice-v1", VPCLatticeV2: "lattice-v2",
	WebSocketAPI: "websocket-api", Authorizer: "authorizer", AppSync: "appsync",
	BedrockAgent: "bedrock-agent", CloudFormation: "cloudformation", CodeCommit: "codecommit",
	CodePipeline: "codepipeline", Cognito: "cognito", Config: "config", Connect: "connect",
	DocumentDB: "documentdb", DynamoDB: "dynamodb", EventBridge: "eventbridge", Firehose: "firehose",
	IoT: "iot", Kafka: "kafka", Kinesis: "kinesis", Lex: "lex", Logs: "logs", MQ: "mq",
	S3: "s3", S3Batch: "s3-batch", S3Object: "s3-object", Scheduler: "scheduler",
	SecretsManager: "secretsmanager", SES: "ses", SNS: "sns", SQS: "sqs", StepFunctions: "step-functions",
}

// String returns the name of the source, such as "http-api" or "sqs".
func (s Source) String() string {
	if s < 0 || int(s) >= len(sourceNames) {
		return sourceNames[Unknown]
	}
	return sourceNames[s]
}

// HTTP reports whether the source's events are HTTP requests. Those of a
// WebSocket API are not: a message has no method, path or header.
func (s Source) HTTP() bool { return s >= RESTAPI && s <= VPCLatticeV2 }

// SourceNamed is the opposite of [Source.String]. It is for checking the keys
// of [Options.Routes].
func SourceNamed(name string) (Source, bool) {
	i := slices.Index(sourceNames[:], name)
	return Source(max(i, 0)), i >= 0
}
