package directevent

// key is a member of an event's outermost object that tells something.
type key uint8

const (
	keyVersion key = iota
	keyRawPath
	keyRawQueryString
	keyCookies
	keyHeaders
	keyMultiHeaders
	keyQuery
	keyMultiQuery
	keyHTTPMethod
	keyPath
	keyRequestContext
	keyBody
	keyBase64
	keyLatticePath
	keyMethod
	keyLatticeQuery
	keyLatticeBase64
	keyType
	keyRouteARN
	keyMethodARN
	keyRecords
	keyEventSource
	keySource
	keyDetailType
	keyLogs
	keyTriggerSource
	keyIdentityPool
	keyDatasetRecords
	keyBot
	keySessionState
	keyCurrentIntent
	keyMessageVersion
	keyAgent
	keyActionGroup
	keyFunction
	keyExecution
	keyStateMachine
	keyContext
	keyDeliveryStream
	keyInvokingEvent
	keyPipelineJob
	keyRequestType
	keyResponseURL
	keyStackID
	keySecretID
	keyRequestToken
	keyStep
	keyJob
	keyTasks
	keyGetObjectContext
	keySerialNumber
	keyClickType
	keyDeviceInfo
	keyDeviceEvent
	keyName
	keyDetails
	keyInfo
	keyArguments
	keyCount
)

// keyNamed is a switch and not a map because the compiler makes a binary
// search of it that allocates nothing.
func keyNamed(name []byte) (key, bool) {
	switch string(name) {
	case "version":
		return keyVersion, true
	case "rawPath":
		return keyRawPath, true
	case "rawQueryString":
		return keyRawQueryString, true
	case "cookies":
		return keyCookies, true
	case "headers":
		return keyHeaders, true
	case "multiValueHeaders":
		return keyMultiHeaders, true
	case "queryStringParameters":
		return keyQuery, true
	case "multiValueQueryStringParameters":
		return keyMultiQuery, true
	case "httpMethod":
		return keyHTTPMethod, true
	case "path":
		return keyPath, true
	case "requestContext":
		return keyRequestContext, true
	case "body":
		return keyBody, true
	case "isBase64Encoded":
		return keyBase64, true
	case "raw_path":
		return keyLatticePath, true
	case "method":
		return keyMethod, true
	case "query_string_parameters":
		return keyLatticeQuery, true
	case "is_base64_encoded":
		return keyLatticeBase64, true
	}
	return otherKeyNamed(name)
}

// otherKeyNamed knows the keys of events that are not HTTP.
func otherKeyNamed(name []byte) (key, bool) {
	switch string(name) {
	case "type":
		return keyType, true
	case "routeArn":
		return keyRouteARN, true
	case "methodArn":
		return keyMethodARN, true
	case "Records":
		return keyRecords, true
	case "eventSource":
		return keyEventSource, true
	case "source":
		return keySource, true
	case "detail-type":
		return keyDetailType, true
	case "awslogs":
		return keyLogs, true
	case "triggerSource":
		return keyTriggerSource, true
	case "identityPoolId":
		return keyIdentityPool, true
	case "datasetRecords":
		return keyDatasetRecords, true
	case "bot":
		return keyBot, true
	case "sessionState":
		return keySessionState, true
	case "currentIntent":
		return keyCurrentIntent, true
	case "messageVersion":
		return keyMessageVersion, true
	case "agent":
		return keyAgent, true
	case "actionGroup":
		return keyActionGroup, true
	case "function":
		return keyFunction, true
	case "Execution":
		return keyExecution, true
	case "StateMachine":
		return keyStateMachine, true
	case "context":
		return keyContext, true
	case "deliveryStreamArn":
		return keyDeliveryStream, true
	case "invokingEvent":
		return keyInvokingEvent, true
	case "CodePipeline.job":
		return keyPipelineJob, true
	case "RequestType":
		return keyRequestType, true
	case "ResponseURL":
		return keyResponseURL, true
	case "StackId":
		return keyStackID, true
	case "SecretId":
		return keySecretID, true
	case "ClientRequestToken":
		return keyRequestToken, true
	case "Step":
		return keyStep, true
	case "job":
		return keyJob, true
	case "tasks":
		return keyTasks, true
	case "getObjectContext":
		return keyGetObjectContext, true
	case "serialNumber":
		return keySerialNumber, true
	case "clickType":
		return keyClickType, true
	case "deviceInfo":
		return keyDeviceInfo, true
	case "deviceEvent":
		return keyDeviceEvent, true
	case "Name":
		return keyName, true
	case "Details":
		return keyDetails, true
	case "info":
		return keyInfo, true
	case "arguments":
		return keyArguments, true
	}
	return 0, false
}

// keys is a set of keys.
type keys uint64

func keySet(list ...key) (set keys) {
	for _, k := range list {
		set |= 1 << k
	}
	return set
}

// envelope is what one look at an event has found.
type envelope struct {
	whole    token // the event, if it is anything but an object
	has      keys  // those that are there and not null
	members  [keyCount]token
	context  requestContext
	original []byte
}

// open takes an event apart. A name that comes twice counts as it does for
// encoding/json: the last one.
func (e *envelope) open(event []byte) error {
	e.original = event
	s := scanner{data: event}
	if s.next() != '{' {
		e.whole = s.value()
	} else {
		for ok := s.open('{'); ok; ok = s.more('{') {
			k, known := keyNamed(s.key())
			var value token
			if known && k == keyRequestContext {
				value = e.context.read(&s)
			} else {
				value = s.value()
			}
			if known {
				e.set(k, value)
			}
		}
	}
	s.end()
	return s.err
}

func (e *envelope) set(k key, value token) {
	e.members[k] = value
	e.has |= 1 << k
	if value.isNull() {
		e.has &^= 1 << k
	}
}

func (e *envelope) hasAll(set keys) bool { return e.has&set == set }

// string returns a member that is a string, and "" for what is none.
func (e *envelope) string(k key) string { return stringOf(e.members[k]) }

func stringOf(t token) string {
	if t.kind() != '"' {
		return ""
	}
	return string(t.text())
}

// isTrue takes "true" for true, as which VPC Lattice's documentation shows it.
func isTrue(t token) bool { return t.kind() == 't' || stringOf(t) == "true" }

// requestContext is what tells the sources apart, and is needed of them.
type requestContext struct {
	elb, http, connection, lattice bool

	method, path token // of payload 2.0
	domainName   token
	sourceIP     token
}

// read takes the value that comes next, so that nothing is looked at twice.
func (c *requestContext) read(s *scanner) token {
	*c = requestContext{}
	if s.next() != '{' {
		return s.value()
	}
	start := s.pos
	for ok := s.open('{'); ok; ok = s.more('{') {
		switch string(s.key()) {
		case "elb":
			c.elb = s.value().kind() == '{'
		case "http":
			c.http = s.next() == '{'
			c.readHTTP(s)
		case "connectionId":
			c.connection = s.value().kind() == '"'
		case "serviceArn", "serviceNetworkArn":
			c.lattice = s.value().kind() == '"' || c.lattice
		case "domainName":
			c.domainName = s.value()
		case "identity":
			for name, value := range members(s.value()) {
				if string(name) == "sourceIp" {
					c.sourceIP = value
				}
			}
		default:
			s.value()
		}
	}
	if s.err != nil {
		return nil
	}
	return s.data[start:s.pos]
}

func (c *requestContext) readHTTP(s *scanner) {
	if s.next() != '{' {
		s.value()
		return
	}
	for ok := s.open('{'); ok; ok = s.more('{') {
		switch string(s.key()) {
		case "method":
			c.method = s.value()
		case "path":
			c.path = s.value()
		case "sourceIp":
			c.sourceIP = s.value()
		default:
			s.value()
		}
	}
}

// members yields the members of a valid object, and nothing for what is none.
func members(t token) func(yield func(name []byte, value token) bool) {
	return func(yield func([]byte, token) bool) {
		if t.kind() != '{' {
			return
		}
		s := scanner{data: t}
		for ok := s.open('{'); ok; ok = s.more('{') {
			name := s.key()
			if value := s.value(); s.err != nil || !yield(name, value) {
				return
			}
		}
	}
}

// elements yields the elements of a valid array, and nothing for what is none.
func elements(t token) func(yield func(value token) bool) {
	return func(yield func(token) bool) {
		if t.kind() != '[' {
			return
		}
		s := scanner{data: t}
		for ok := s.open('['); ok; ok = s.more('[') {
			if value := s.value(); s.err != nil || !yield(value) {
				return
			}
		}
	}
}
