package directevent

import "bytes"

// shape is how a source describes requests and wants its answers.
type shape int

const (
	shapeEvent     shape = iota // not HTTP: the event is the request's body
	shapeV1                     // API Gateway, payload 1.0
	shapeV2                     // API Gateway, payload 2.0
	shapeALB                    // one value for each header
	shapeALBMulti               // target group attribute lambda.multi_value_headers.enabled
	shapeLattice                // both event structures
	shapeWebSocket              // the event is the body, the answer is API Gateway's
)

// classify tells what an event is by what it has.
func (e *envelope) classify() (Source, shape) {
	switch c := &e.context; {
	case e.whole != nil:
		return e.piped(), shapeEvent
	case e.has&keySet(keyRouteARN, keyMethodARN) != 0 && e.hasAll(keySet(keyType)):
		// These describe the request as well, but ask for a policy.
		return Authorizer, shapeEvent
	case c.elb:
		if e.hasAll(keySet(keyMultiHeaders)) {
			return ALB, shapeALBMulti
		}
		return ALB, shapeALB
	case c.http, e.hasAll(keySet(keyVersion, keyRawPath)) && e.string(keyVersion) == "2.0":
		if isFunctionURL(c.domainName) {
			return FunctionURL, shapeV2
		}
		return HTTPAPI, shapeV2
	case c.connection:
		return WebSocketAPI, shapeWebSocket
	case c.lattice && e.hasAll(keySet(keyMethod, keyPath)):
		return VPCLatticeV2, shapeLattice
	case e.hasAll(keySet(keyMethod, keyLatticePath)):
		return VPCLatticeV1, shapeLattice
	case e.hasAll(keySet(keyHTTPMethod, keyPath)):
		// The events of REST APIs have no version.
		if e.string(keyVersion) == "1.0" {
			return HTTPAPI, shapeV1
		}
		return RESTAPI, shapeV1
	}
	return e.classifyOther(), shapeEvent
}

// isFunctionURL tells a function URL from an HTTP API, whose events look the
// same: <id>.lambda-url.<region>.on.aws. A function URL has no other domain
// name; what stands in front of it must send this one as Host.
func isFunctionURL(domainName token) bool {
	if domainName.kind() != '"' {
		return false
	}
	name := domainName.text()
	return bytes.HasSuffix(name, []byte(".on.aws")) && bytes.Contains(name, []byte(".lambda-url."))
}

// otherShapes are the sources that can be told by the names in their events
// alone. The first that fits counts.
var otherShapes = []struct {
	has    keys
	source Source
}{
	{keySet(keyLogs), Logs},
	{keySet(keyTriggerSource), Cognito},
	{keySet(keyIdentityPool, keyDatasetRecords), Cognito},
	{keySet(keyBot, keySessionState), Lex},
	{keySet(keyBot, keyCurrentIntent), Lex},
	{keySet(keyMessageVersion, keyAgent, keyActionGroup), BedrockAgent},
	{keySet(keyDeliveryStream), Firehose},
	{keySet(keyInvokingEvent), Config},
	{keySet(keyPipelineJob), CodePipeline},
	{keySet(keyRequestType, keyResponseURL, keyStackID), CloudFormation},
	{keySet(keySecretID, keyRequestToken, keyStep), SecretsManager},
	{keySet(keyJob, keyTasks), S3Batch},
	{keySet(keyGetObjectContext), S3Object},
	{keySet(keySerialNumber, keyClickType), IoT},
	{keySet(keyDeviceInfo, keyDeviceEvent), IoT},
	{keySet(keyName, keyDetails), Connect},
	{keySet(keyInfo, keyArguments), AppSync},
	{keySet(keyExecution, keyStateMachine), StepFunctions},
}

func (e *envelope) classifyOther() Source {
	if e.hasAll(keySet(keyRecords)) {
		for record := range elements(e.members[keyRecords]) {
			return sourceOfRecord(record)
		}
	}
	if e.hasAll(keySet(keyEventSource)) {
		if s := eventSources[e.string(keyEventSource)]; s != Unknown {
			return s
		}
	}
	if e.hasAll(keySet(keySource, keyDetailType)) {
		if e.string(keySource) == "aws.scheduler" {
			return Scheduler
		}
		return EventBridge
	}
	for _, shape := range otherShapes {
		if e.hasAll(shape.has) {
			return shape.source
		}
	}
	var inContext keys // of Step Functions, passed on under the name context
	for name := range members(e.members[keyContext]) {
		if k, known := keyNamed(name); known {
			inContext |= 1 << k
		}
	}
	if machine := keySet(keyExecution, keyStateMachine); inContext&machine == machine {
		return StepFunctions
	}
	return Unknown
}

// piped is the source of an array: EventBridge Pipes send the records without
// an object around them.
func (e *envelope) piped() Source {
	for record := range elements(e.whole) {
		return sourceOfRecord(record)
	}
	return Unknown
}

// eventSources has what the member eventSource says, or EventSource for SNS.
var eventSources = map[string]Source{
	"aws:sqs": SQS, "aws:sns": SNS, "aws:s3": S3, "aws:dynamodb": DynamoDB, "aws:kinesis": Kinesis,
	"aws:ses": SES, "aws:codecommit": CodeCommit, "aws:kafka": Kafka, "SelfManagedKafka": Kafka,
	"aws:mq": MQ, "aws:amq": MQ, "aws:rmq": MQ, "aws:docdb": DocumentDB,
}

func sourceOfRecord(record token) Source {
	for name, value := range members(record) {
		if n := string(name); n == "eventSource" || n == "EventSource" {
			return eventSources[stringOf(value)]
		}
	}
	return Unknown
}
