package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// forService and forExisting are values for the parameters without a default.
var (
	forService  = map[string]string{"RouterTag": "r1", "AppTag": "a1"}
	forExisting = map[string]string{
		"VpcId": "vpc-1", "Subnets": "subnet-1,subnet-2", "ListenerPriority": "10", "Host": "shop.example.com",
		"ListenerArn":     "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/a/1/2",
		"BalancerGroupId": "sg-1", "FunctionGroupId": "sg-2", "Function": "shop", "RouterTag": "r1",
	}
)

// with adds values to those.
func with(values map[string]string, more ...string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, values)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

// both runs a test for each template that has routers.
func both(t *testing.T, test func(t *testing.T, f *template)) {
	t.Run("service", func(t *testing.T) { test(t, loadTemplate(t, "service.yaml", forService)) })
	t.Run("existing", func(t *testing.T) { test(t, loadTemplate(t, "existing.yaml", forExisting)) })
}

func (f *template) container() map[string]any {
	return f.properties("RouterTask")["ContainerDefinitions"].([]any)[0].(map[string]any)
}

// caddyfile is what the router finds in CADDYFILE.
func (f *template) caddyfile() string {
	f.t.Helper()
	for _, e := range f.container()["Environment"].([]any) {
		if e := e.(map[string]any); e["Name"] == "CADDYFILE" {
			return e["Value"].(string)
		}
	}
	f.t.Fatalf("%s: no CADDYFILE", f.name)
	return ""
}

// seconds is the duration after a word of the Caddyfile.
func seconds(t *testing.T, caddyfile, option string) int {
	t.Helper()
	for line := range strings.Lines(caddyfile) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == option {
			d, err := time.ParseDuration(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return int(d.Seconds())
		}
	}
	t.Fatalf("the Caddyfile has no %s", option)
	return 0
}

// exitTime is what Caddy takes after grace_period at most: see README, Shutdown.
const exitTime = 1 + 5

// A router that is told to stop is out of the load balancer's rotation before it
// refuses anything, and has ended before it is killed.
func TestRuleSHUTDOWN(t *testing.T) {
	both(t, func(t *testing.T, f *template) {
		group, caddyfile := f.properties("Routers"), f.caddyfile()
		noticed := number(t, group["HealthCheckIntervalSeconds"])*number(t, group["UnhealthyThresholdCount"]) +
			number(t, group["HealthCheckTimeoutSeconds"])
		delay, grace := seconds(t, caddyfile, "shutdown_delay"), seconds(t, caddyfile, "grace_period")
		stop := number(t, f.container()["StopTimeout"])
		if noticed > delay {
			t.Errorf("the load balancer notices after %d s, shutdown_delay is %d s", noticed, delay)
		}
		if ended := delay + grace + exitTime; ended > stop || stop > 120 {
			t.Errorf("Caddy ends after %d s, StopTimeout is %d s", ended, stop)
		}
		if d := attribute(t, group, "TargetGroupAttributes", "deregistration_delay.timeout_seconds"); d >= 120 {
			t.Errorf("DRAIN: %d s, and Spot leaves 120", d)
		}
		if group["HealthCheckPath"] != healthPath {
			t.Errorf("health check at %v", group["HealthCheckPath"])
		}
	})
}

func TestRuleIDLE(t *testing.T) {
	f := loadTemplate(t, "service.yaml", forService)
	balancer := attribute(t, f.properties("Balancer"), "LoadBalancerAttributes", "idle_timeout.timeout_seconds")
	both(t, func(t *testing.T, f *template) {
		queue, idle := seconds(t, f.caddyfile(), "queue_timeout"), seconds(t, f.caddyfile(), "idle")
		if queue >= balancer || balancer >= idle {
			t.Errorf("queue_timeout %d s, load balancer %d s, Caddy %d s", queue, balancer, idle)
		}
	})
}

// What each size may start fits into what it reserves, which fits into an account.
func TestRuleCALLS(t *testing.T) {
	both(t, func(t *testing.T, f *template) {
		for size, row := range f.sizes() {
			if least, most := number(t, row["MinRouters"]), number(t, row["MaxRouters"]); least > most {
				t.Errorf("%s: %d to %d routers", size, least, most)
			}
			if size != "trial" && number(t, row["MinRouters"]) < 2 {
				t.Errorf("%s: one router", size)
			}
			f := loadTemplate(t, f.name, with(f.given, "Size", size))
			if want := fmt.Sprintf("max_instances %v\n", row["MaxInstances"]); !strings.Contains(f.caddyfile(), want) {
				t.Errorf("%s: the Caddyfile has not %q", size, want)
			}
			scaling, task := f.properties("RouterScaling"), f.properties("RouterTask")
			if scaling["MinCapacity"] != row["MinRouters"] || scaling["MaxCapacity"] != row["MaxRouters"] ||
				task["Cpu"] != row["Cpu"] || task["Memory"] != row["Memory"] {
				t.Errorf("%s: %v to %v routers with %v and %v", size, scaling["MinCapacity"], scaling["MaxCapacity"], task["Cpu"], task["Memory"])
			}
		}
		d := f.properties("RouterService")["DeploymentConfiguration"].(map[string]any)
		if d["MaximumPercent"] != 200 || d["MinimumHealthyPercent"] != 100 {
			t.Errorf("deployment %v, the sums are for twice the routers", d)
		}
	})
	f := loadTemplate(t, "service.yaml", forService)
	for size, row := range f.sizes() {
		f := loadTemplate(t, "service.yaml", with(forService, "Size", size))
		most := mostInstances(t, row)
		reserved := f.properties("Function")["ReservedConcurrentExecutions"]
		if size == "trial" {
			if reserved != nil || most > 10 {
				t.Errorf("%s: %d instances, %v reserved; a new account has 10 in all", size, most, reserved)
			}
			continue
		}
		if n := number(t, reserved); most > n || n > 900 {
			t.Errorf("%s: %d instances, %d reserved, of 1000 less 100", size, most, n)
		}
	}
	if timeout := f.properties("Function")["Timeout"]; timeout != 900 {
		t.Errorf("function timeout %v", timeout)
	}
}

func (f *template) sizes() map[string]map[string]any {
	f.t.Helper()
	rows, ok := f.mappings["Sizes"].(map[string]any)
	if !ok {
		f.t.Fatalf("%s has no sizes", f.name)
	}
	sizes := map[string]map[string]any{}
	for size, row := range rows {
		sizes[size] = row.(map[string]any)
	}
	return sizes
}

// mostInstances is what routers of a size may start in a deployment.
func mostInstances(t *testing.T, row map[string]any) int {
	t.Helper()
	return number(t, row["MaxInstances"]) * number(t, row["MaxRouters"]) * 2
}

// With what is there already the routers have the same sizes and rules, and it says
// what the function needs.
func TestSizesAreTheSame(t *testing.T) {
	service, existing := loadTemplate(t, "service.yaml", forService), loadTemplate(t, "existing.yaml", forExisting)
	sizes := service.sizes()
	var needs []string
	for _, size := range []string{"trial", "small", "medium", "large"} {
		delete(sizes[size], "ReservedConcurrency")
		needs = append(needs, strconv.Itoa(mostInstances(t, sizes[size])))
	}
	if got := existing.sizes(); !reflect.DeepEqual(got, sizes) {
		t.Errorf("existing.yaml has %v, service.yaml %v", got, sizes)
	}
	if !reflect.DeepEqual(existing.rules, service.rules) || len(service.rules) == 0 {
		t.Errorf("existing.yaml asserts %v, service.yaml %v", existing.rules, service.rules)
	}
	for _, p := range []string{"Size", "Capacity", "MaxConcurrent", "Architecture", "CloudWatchMetrics"} {
		got, want := maps.Clone(existing.parameters[p].(map[string]any)), service.parameters[p].(map[string]any)
		for _, differs := range []string{"Description", "Default"} {
			got[differs] = want[differs]
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v in existing.yaml, %v in service.yaml", p, got, want)
		}
	}
	source, err := os.ReadFile(filepath.Join(root, "deploy", "cloudformation", "existing.yaml"))
	said := fmt.Sprintf("needs %s (trial), %s, %s or %s environments", needs[0], needs[1], needs[2], needs[3])
	if err != nil || !strings.Contains(string(source), said) {
		t.Errorf("existing.yaml does not say %q: %v", said, err)
	}
}

// rule is an open port: from one to another.
type rule struct{ from, to, ports string }

// openPorts are all rules of a template.
func (f *template) openPorts(kind, own, other string) []rule {
	var rules []rule
	add := func(group string, p map[string]any) {
		ports := fmt.Sprint(p["FromPort"], "-", p["ToPort"])
		peer := p[other]
		if peer == nil {
			peer = p["CidrIp"]
		}
		if peer == nil {
			f.t.Fatalf("%s: a rule of %s names nobody: %v", f.name, group, p)
		}
		if peer == "127.0.0.1/32" { // see service.yaml: the absence of rules
			return
		}
		rules = append(rules, rule{group, fmt.Sprint(peer), ports})
	}
	for _, name := range f.ofType("AWS::EC2::SecurityGroup") {
		inline, _ := f.properties(name)[own].([]any)
		if own == "SecurityGroupEgress" && len(inline) == 0 {
			f.t.Errorf("%s: %s has no rule for what goes out, so all may", f.name, name)
		}
		for _, p := range inline {
			add(name, p.(map[string]any))
		}
	}
	for _, name := range f.ofType(kind) {
		p := f.properties(name)
		add(p["GroupId"].(string), p)
	}
	slices.SortFunc(rules, func(a, b rule) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return rules
}

// Only the function reaches the callback port, only the load balancer the site,
// and the function reaches nothing else unless it is let out.
func TestWhoReachesWhom(t *testing.T) {
	check := func(t *testing.T, f *template, in, out []rule) {
		t.Helper()
		if got := f.openPorts("AWS::EC2::SecurityGroupIngress", "SecurityGroupIngress", "SourceSecurityGroupId"); !reflect.DeepEqual(got, in) {
			t.Errorf("in: %v\nwant %v", got, in)
		}
		if got := f.openPorts("AWS::EC2::SecurityGroupEgress", "SecurityGroupEgress", "DestinationSecurityGroupId"); !reflect.DeepEqual(got, out) {
			t.Errorf("out: %v\nwant %v", got, out)
		}
	}
	in := []rule{
		{"BalancerGroup", "0.0.0.0/0", "80-80"},
		{"EndpointGroup", "RouterGroup", "443-443"},
		{"RouterGroup", "BalancerGroup", "8080-8080"}, {"RouterGroup", "FunctionGroup", "7443-7443"},
	}
	out := []rule{
		{"BalancerGroup", "RouterGroup", "8080-8080"}, {"FunctionGroup", "RouterGroup", "7443-7443"},
		{"RouterGroup", "0.0.0.0/0", "443-443"},
	}
	check(t, loadTemplate(t, "service.yaml", forService), in, out)
	out = slices.Insert(out, 1, rule{"FunctionGroup", "0.0.0.0/0", "443-443"})
	// What it calls may be AWS, whose names mean the endpoints.
	in = slices.Insert(in, 1, rule{"EndpointGroup", "FunctionGroup", "443-443"})
	check(t, loadTemplate(t, "service.yaml", with(forService, "InternetForApp", "yes")), in, out)
	in = slices.Insert(in, 0, rule{"BalancerGroup", "0.0.0.0/0", "443-443"})
	check(t, loadTemplate(t, "service.yaml", with(forService, "InternetForApp", "yes", "CertificateArn", "arn:aws:acm:x")), in, out)

	in = []rule{{"RouterGroup", "sg-1", "8080-8080"}, {"RouterGroup", "sg-2", "7443-7443"}}
	out = []rule{{"RouterGroup", "0.0.0.0/0", "443-443"}}
	f := loadTemplate(t, "existing.yaml", forExisting)
	check(t, f, in, out)
	if got := fmt.Sprint(f.metadata("RouterService")); got != "map[After:nothing]" {
		t.Errorf("without endpoints the service waits for %s", got)
	}
	f = loadTemplate(t, "existing.yaml", with(forExisting, "EndpointGroupId", "sg-3"))
	check(t, f, append(in, rule{"sg-3", "RouterGroup", "443-443"}), out)
	if got := fmt.Sprint(f.metadata("RouterService")); got != "map[After:EndpointFromRouter]" {
		t.Errorf("with endpoints the service waits for %s", got)
	}
}

// Fargate is not in every zone, so the zones can be chosen.
func TestZones(t *testing.T) {
	for _, tt := range []struct{ given, subnet, want string }{
		{"", "A", "!Select[0 map[!GetAZs:]]"}, {"", "B", "!Select[1 map[!GetAZs:]]"},
		{"eu-central-1c", "A", "eu-central-1c"}, {"eu-central-1c", "B", "eu-central-1c"},
	} {
		f := loadTemplate(t, "service.yaml", with(forService, "Zone"+tt.subnet, tt.given))
		for _, kind := range []string{"Public", "Private"} {
			if got := f.properties(kind + tt.subnet)["AvailabilityZone"]; got != tt.want {
				t.Errorf("%s%s is in %v, want %s", kind, tt.subnet, got, tt.want)
			}
		}
	}
}

// Whoever reaches the endpoint of Lambda may invoke functions of this account. The app
// may do with it what its own policies say, if it may call AWS at all; routers may not.
func TestLambdaEndpoint(t *testing.T) {
	invoke := map[string]any{
		"Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunction",
		"Resource":  "arn:aws:lambda:eu-central-1:123456789012:function:*",
		"Condition": map[string]any{"StringEquals": map[string]any{"aws:PrincipalAccount": "123456789012"}},
	}
	app := map[string]any{
		"Effect": "Allow", "Principal": "*", "Action": "lambda:*", "Resource": "*",
		"Condition": map[string]any{"ArnNotEquals": map[string]any{"aws:PrincipalArn": "RouterRole.Arn"}},
	}
	for internet, want := range map[string][]any{"no": {invoke}, "yes": {invoke, app}} {
		f := loadTemplate(t, "service.yaml", with(forService, "InternetForApp", internet))
		policy := f.properties("LambdaEndpoint")["PolicyDocument"].(map[string]any)
		if got := policy["Statement"]; !reflect.DeepEqual(got, want) {
			t.Errorf("InternetForApp=%s: %v", internet, got)
		}
		for _, open := range []string{"LogsEndpoint", "EcrApiEndpoint", "EcrEndpoint", "S3Endpoint"} {
			if policy := f.properties(open)["PolicyDocument"]; policy != nil {
				t.Errorf("%s, which the app may use too, allows %v only", open, policy)
			}
		}
	}
}

// Roles are assumed on conditions that AWS documents for the one who assumes them.
func TestWhoAssumesRoles(t *testing.T) {
	account := map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": "123456789012"}}
	documented := map[string]any{"ExecutionRole": nil, "FunctionRole": nil, "RouterRole": account}
	both(t, func(t *testing.T, f *template) {
		for _, name := range f.ofType("AWS::IAM::Role") {
			policy := f.properties(name)["AssumeRolePolicyDocument"].(map[string]any)
			statement := policy["Statement"].([]any)[0].(map[string]any)
			if got := statement["Condition"]; !reflect.DeepEqual(got, documented[name]) {
				t.Errorf("%s is assumed on condition of %v", name, got)
			}
		}
	})
}

// A stack's name may have 128 characters, so names are made of it only where so many
// fit. Functions, load balancers and target groups have less.
func TestStackNamesMayBeLong(t *testing.T) {
	limits := map[string]int{"LogGroupName": 512, "Family": 255}
	both(t, func(t *testing.T, f *template) {
		f.values["AWS::StackName"] = strings.Repeat("s", 128)
		for name, r := range f.resources {
			properties, _ := r.(map[string]any)["Properties"].(map[string]any)
			for p, v := range properties {
				limit, known := limits[p]
				if !known && !strings.HasSuffix(p, "Name") {
					continue
				}
				if s := fmt.Sprint(f.eval(v)); strings.Contains(s, f.values["AWS::StackName"]) && len(s) > limit {
					t.Errorf("%s: %s has %d characters", name, p, len(s))
				}
			}
		}
	})
}

func TestCapacity(t *testing.T) {
	for capacity, want := range map[string]string{
		"on-demand": "[map[CapacityProvider:FARGATE Weight:1]]",
		"mixed":     "[map[Base:1 CapacityProvider:FARGATE Weight:0] map[CapacityProvider:FARGATE_SPOT Weight:1]]",
		"spot":      "[map[CapacityProvider:FARGATE_SPOT Weight:1]]",
	} {
		for _, f := range []*template{
			loadTemplate(t, "service.yaml", with(forService, "Capacity", capacity, "Size", "small")),
			loadTemplate(t, "existing.yaml", with(forExisting, "Capacity", capacity)),
		} {
			if got := fmt.Sprint(f.properties("RouterService")["CapacityProviderStrategy"]); got != want {
				t.Errorf("%s: %s: %s", f.name, capacity, got)
			}
			// What changes with the strategy deploys it.
			force := fmt.Sprintf("map[EnableForceNewDeployment:true ForceNewDeploymentNonce:%s]", capacity)
			if got := fmt.Sprint(f.properties("RouterService")["ForceNewDeployment"]); got != force {
				t.Errorf("%s: %s: a change is deployed by %s", f.name, capacity, got)
			}
		}
	}
}

func TestListeners(t *testing.T) {
	f := loadTemplate(t, "service.yaml", forService)
	if url, _ := f.output("Url"); url != "http://Balancer.DNSName" {
		t.Errorf("without a certificate the site is at %q", url)
	}
	if got := fmt.Sprint(f.metadata("RouterService")); got != "map[After:nothing]" {
		t.Errorf("without a certificate the service waits for %s", got)
	}
	if got := fmt.Sprint(f.properties("HttpListener")["DefaultActions"]); got != "[map[TargetGroupArn:Routers Type:forward]]" {
		t.Errorf("without a certificate: %s", got)
	}
	f = loadTemplate(t, "service.yaml", with(forService, "CertificateArn", "arn:aws:acm:x"))
	if url, ok := f.output("Url"); ok {
		t.Errorf("the certificate is not for %s", url)
	}
	if name, ok := f.output("Balancer"); !ok || name != "Balancer.DNSName" {
		t.Errorf("what the certificate's name has to lead to is %q", name)
	}
	if got := fmt.Sprint(f.properties("HttpListener")["DefaultActions"]); !strings.Contains(got, "Protocol:HTTPS") || strings.Contains(got, "forward") {
		t.Errorf("with a certificate: %s", got)
	}
	if got := fmt.Sprint(f.metadata("RouterService")); got != "map[After:HttpsListener]" {
		t.Errorf("with a certificate the service waits for %s", got)
	}
	if got := fmt.Sprint(f.properties("HttpsListener")["DefaultActions"]); !strings.Contains(got, "Routers") {
		t.Errorf("HTTPS: %s", got)
	}
}

// What existing.yaml asks for, and service.yaml has, is among the outputs of the latter.
func TestExistingFindsWhatServiceMade(t *testing.T) {
	for certificate, listener := range map[string]string{"": "HttpListener", "arn:aws:acm:x": "HttpsListener"} {
		f := loadTemplate(t, "service.yaml", with(forService, "CertificateArn", certificate))
		for name, want := range map[string]string{"Listener": listener, "BalancerGroup": "BalancerGroup", "EndpointGroup": "EndpointGroup"} {
			if got, ok := f.output(name); !ok || got != want {
				t.Errorf("certificate %q: the output %s is %q", certificate, name, got)
			}
		}
	}
}

// Tasks start when they can reach and be reached by all that they need; so they also end
// before that is taken away.
func TestTasksStartLast(t *testing.T) {
	both(t, func(t *testing.T, f *template) {
		var after []string
		for _, name := range f.resources["RouterService"].(map[string]any)["DependsOn"].([]any) {
			after = append(after, name.(string))
		}
		for _, kind := range []string{"AWS::EC2::VPCEndpoint", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress",
			"AWS::ECS::ClusterCapacityProviderAssociations"} {
			for _, name := range f.ofType(kind) {
				if !slices.Contains(after, name) {
					t.Errorf("tasks may start before %s", name)
				}
			}
		}
		for _, name := range f.ofType("AWS::EC2::SubnetRouteTableAssociation") {
			if f.properties(name)["RouteTableId"] == "PrivateRoutes" && !slices.Contains(after, name) {
				t.Errorf("tasks may start before %s", name)
			}
		}
	})
}

// The two templates give the router the same Caddyfile but for whom it trusts.
func TestCaddyfilesAreTheSame(t *testing.T) {
	for _, metrics := range []string{"no", "yes"} {
		one := loadTemplate(t, "service.yaml", with(forService, "CloudWatchMetrics", metrics)).caddyfile()
		two := loadTemplate(t, "existing.yaml", with(forExisting, "Function", "Function", "Size", "trial",
			"CloudWatchMetrics", metrics, "Zones", "eu-central-1a=euc1-az2,eu-central-1b=euc1-az3")).caddyfile()
		two = strings.Replace(two, "static private_ranges", "static 10.72.0.0/16", 1)
		if two = strings.Replace(two, "euc1-az2,", "euc1-az2 ", 1); one != two {
			t.Errorf("%s\n--- and ---\n%s", one, two)
		}
	}
}

// Every template of the folder is known to these tests.
func TestTemplates(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "deploy", "cloudformation", "*"))
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	if want := []string{"existing.yaml", "images.yaml", "service.yaml"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v, want %v", names, err, want)
	}
}
