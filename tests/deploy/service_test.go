package deploy

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
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
	all := maps.Clone(values)
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
	f := loadTemplate(t, "service.yaml", forService)
	for size, row := range f.mappings["Sizes"].(map[string]any) {
		row := row.(map[string]any)
		f := loadTemplate(t, "service.yaml", with(forService, "Size", size))
		most := number(t, row["MaxInstances"]) * number(t, row["MaxRouters"]) * 2
		reserved := f.properties("Function")["ReservedConcurrentExecutions"]
		if size == "trial" {
			if reserved != "" || most > 10 {
				t.Errorf("%s: %d instances, %v reserved; a new account has 10 in all", size, most, reserved)
			}
			continue
		}
		if n := number(t, reserved); most > n || n > 900 {
			t.Errorf("%s: %d instances, %d reserved, of 1000 less 100", size, most, n)
		}
		if number(t, row["MinRouters"]) < 2 {
			t.Errorf("%s: one router", size)
		}
		if want := fmt.Sprintf("max_instances %v\n", row["MaxInstances"]); !strings.Contains(f.caddyfile(), want) {
			t.Errorf("%s: the Caddyfile has not %q", size, want)
		}
	}
	if timeout := f.properties("Function")["Timeout"]; timeout != 900 {
		t.Errorf("function timeout %v", timeout)
	}
	both(t, func(t *testing.T, f *template) {
		d := f.properties("RouterService")["DeploymentConfiguration"].(map[string]any)
		if d["MaximumPercent"] != 200 || d["MinimumHealthyPercent"] != 100 {
			t.Errorf("deployment %v, the sums are for twice the routers", d)
		}
	})
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
		{"BalancerGroup", "0.0.0.0/0", "443-443"}, {"BalancerGroup", "0.0.0.0/0", "80-80"},
		{"EndpointGroup", "RouterGroup", "443-443"},
		{"RouterGroup", "BalancerGroup", "8080-8080"}, {"RouterGroup", "FunctionGroup", "7443-7443"},
	}
	out := []rule{
		{"BalancerGroup", "RouterGroup", "8080-8080"}, {"FunctionGroup", "RouterGroup", "7443-7443"},
		{"RouterGroup", "0.0.0.0/0", "443-443"},
	}
	check(t, loadTemplate(t, "service.yaml", forService), in, out)
	out = slices.Insert(out, 1, rule{"FunctionGroup", "0.0.0.0/0", "443-443"})
	check(t, loadTemplate(t, "service.yaml", with(forService, "InternetForApp", "yes")), in, out)
	check(t, loadTemplate(t, "existing.yaml", forExisting),
		[]rule{{"RouterGroup", "sg-1", "8080-8080"}, {"RouterGroup", "sg-2", "7443-7443"}},
		[]rule{{"RouterGroup", "0.0.0.0/0", "443-443"}})
}

// The router may invoke the function, and nothing else.
func TestRouterRole(t *testing.T) {
	for _, c := range []struct {
		f    *template
		want string
	}{
		{loadTemplate(t, "service.yaml", forService), "Function.Arn"},
		{loadTemplate(t, "existing.yaml", forExisting), "arn:aws:lambda:eu-central-1:123456789012:function:shop"},
		{loadTemplate(t, "existing.yaml", with(forExisting, "Function", "shop:live")), "arn:aws:lambda:eu-central-1:123456789012:function:shop:live"},
	} {
		role := c.f.properties("RouterRole")
		if role["ManagedPolicyArns"] != nil || len(role["Policies"].([]any)) != 1 {
			t.Errorf("%s: more than one policy", c.f.name)
		}
		policy := role["Policies"].([]any)[0].(map[string]any)["PolicyDocument"].(map[string]any)
		want := []any{map[string]any{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": c.want}}
		if !reflect.DeepEqual(policy["Statement"], want) {
			t.Errorf("%s: %v", c.f.name, policy["Statement"])
		}
	}
}

// Only where there is no resource to name may a role do something to all.
func TestNoRoleMayDoMore(t *testing.T) {
	both(t, func(t *testing.T, f *template) {
		for _, name := range f.ofType("AWS::IAM::Role") {
			for _, p := range f.properties(name)["Policies"].([]any) {
				for _, s := range p.(map[string]any)["PolicyDocument"].(map[string]any)["Statement"].([]any) {
					s := s.(map[string]any)
					actions := fmt.Sprint(s["Action"])
					if s["Resource"] == "*" && actions != "ecr:GetAuthorizationToken" && !strings.HasPrefix(actions, "[ec2:AssignPrivateIp") ||
						strings.Contains(actions, "*") {
						t.Errorf("%s: %s of %v", name, actions, s["Resource"])
					}
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
		}
	}
}

func TestListeners(t *testing.T) {
	f := loadTemplate(t, "service.yaml", forService)
	if got := fmt.Sprint(f.metadata("RouterService")); got != "map[After:nothing]" {
		t.Errorf("without a certificate the service waits for %s", got)
	}
	if got := fmt.Sprint(f.properties("HttpListener")["DefaultActions"]); got != "[map[TargetGroupArn:Routers Type:forward]]" {
		t.Errorf("without a certificate: %s", got)
	}
	f = loadTemplate(t, "service.yaml", with(forService, "CertificateArn", "arn:aws:acm:x"))
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

// The two templates give the router the same Caddyfile but for whom it trusts.
func TestCaddyfilesAreTheSame(t *testing.T) {
	one := loadTemplate(t, "service.yaml", forService).caddyfile()
	two := loadTemplate(t, "existing.yaml", with(forExisting, "Function", "Function", "MaxInstances", "4")).caddyfile()
	if two = strings.Replace(two, "static private_ranges", "static 10.72.0.0/16", 1); one != two {
		t.Errorf("%s\n--- and ---\n%s", one, two)
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
