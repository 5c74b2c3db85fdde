package tests

import (
	"cmp"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// hoursAMonth is what docs/cost.md says a month has.
const hoursAMonth = 730

// row is a line of a table: its name and its cells.
type row struct {
	name  string
	cells []string
}

// costPage is the text of docs/cost.md.
func costPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "cost.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// tableOf returns the rows of the table whose head begins with the given cell.
func tableOf(t *testing.T, page, head string) []row {
	t.Helper()
	_, text, found := strings.Cut(page, "\n| "+head+" |")
	text, _, ended := strings.Cut(text, "\n\n")
	lines := strings.Split(text, "\n")
	if !found || !ended || len(lines) < 3 {
		t.Fatalf("docs/cost.md has no table %q", head)
	}
	var rows []row
	for _, line := range lines[2:] {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(strings.NewReplacer("*", "", "`", "").Replace(c))
		}
		rows = append(rows, row{cells[0], cells[1:]})
	}
	return rows
}

// number reads a figure of the page, such as "$1,234", "0.20" or "52 %".
func number(t *testing.T, s string) float64 {
	t.Helper()
	s = strings.TrimSpace(strings.NewReplacer("$", "", ",", "", "%", "").Replace(s))
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatalf("docs/cost.md: %q is no number", s)
	}
	return f
}

// said reads the one number that the pattern finds in the prose.
func said(t *testing.T, page, pattern string) float64 {
	t.Helper()
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(strings.Join(strings.Fields(page), " "), -1)
	if len(found) != 1 {
		t.Fatalf("docs/cost.md has %q %d times", pattern, len(found))
	}
	return number(t, found[0][1])
}

// isRounded says whether a figure is the value, rounded to the digits that the figure has.
func isRounded(t *testing.T, figure string, value float64) bool {
	t.Helper()
	_, decimals, _ := strings.Cut(strings.TrimSuffix(figure, " %"), ".")
	scale := math.Pow(10, float64(len(decimals)))
	if value > 0 && number(t, figure) == 0 {
		return false // says nothing
	}
	return math.Abs(number(t, figure)*scale-math.Round(value*scale)) < 1e-6
}

// prices are those of the page. Asking for one that it does not have fails the test.
type prices struct {
	t      *testing.T
	values map[string]float64
}

func readPrices(t *testing.T, page string) *prices {
	p := &prices{t, map[string]float64{}}
	for _, r := range tableOf(t, page, "Price") {
		p.values[strings.TrimSpace(r.name)] = number(t, r.cells[0])
	}
	return p
}

func (p *prices) of(name string) float64 {
	p.t.Helper()
	v, ok := p.values[name]
	if !ok {
		p.t.Fatalf("docs/cost.md has no price %q", name)
	}
	return v
}

// lambdaHour is an environment of so many MB for an hour.
func (p *prices) lambdaHour(mb float64) float64 {
	return p.of("Lambda, GB-second") * mb / 1024 * 3600
}

// taskHour is a Fargate task for an hour.
func (p *prices) taskHour(vcpu, gb float64) float64 {
	return vcpu*p.of("Fargate, vCPU-hour") + gb*p.of("Fargate, GB-hour")
}

// balancerMonth is a load balancer in two zones, without capacity units.
func (p *prices) balancerMonth() float64 {
	return hoursAMonth * (p.of("Load balancer, hour") + 2*p.of("Public address, hour"))
}

// endpointsMonth is so many interface endpoints in two zones.
func (p *prices) endpointsMonth(n float64) float64 {
	return hoursAMonth * n * 2 * p.of("Interface endpoint, hour in one zone")
}

// What docs/cost.md says to follow from the prices does.
func TestCostsThatFollowFromThePrices(t *testing.T) {
	page := costPage(t)
	p := readPrices(t, page)
	lambda, fargate := p.lambdaHour(1769), p.taskHour(1, 2)
	trial, small := hoursAMonth*p.taskHour(0.25, 0.5), hoursAMonth*2*p.taskHour(0.5, 1)
	around := p.balancerMonth() + p.endpointsMonth(4)
	want := map[string]float64{
		"Lambda, one vCPU (1769 MB) for an hour":                                             lambda,
		"Fargate, one vCPU and 2 GB for an hour":                                             fargate,
		"the first, as a multiple of the second":                                             lambda / fargate,
		"An instance of 1769 MB that never closes, a month":                                  lambda * hoursAMonth,
		"Router of trial, 0.25 vCPU and 0.5 GB, a month":                                     trial,
		"Two routers of small, 0.5 vCPU and 1 GB each, a month":                              small,
		"Load balancer with two addresses, a month":                                          p.balancerMonth(),
		"Four endpoints in two zones, a month":                                               p.endpointsMonth(4),
		"Fixed, trial, a month":                                                              trial + around,
		"Fixed, small, a month":                                                              small + around,
		"NAT gateway with its address, a month":                                              hoursAMonth * (p.of("NAT gateway, hour") + p.of("Public address, hour")),
		"One-request environments of 1024 MB for the price of an instance of 1769 MB":        1769.0 / 1024,
		"One-request environments of 512 MB for the price of an instance of 1769 MB":         1769.0 / 512,
		"Idle share of the time above which Lambda is cheaper than Fargate for the same CPU": 100 * (1 - fargate/lambda),
	}
	seen := 0
	for _, r := range tableOf(t, page, "Figure") {
		value, ok := want[r.name]
		if !ok {
			t.Errorf("nothing computes %q", r.name)
			continue
		}
		seen++
		if !isRounded(t, r.cells[0], value) {
			t.Errorf("%s: %s, computed %.4f", r.name, r.cells[0], value)
		}
	}
	if seen != len(want) {
		t.Errorf("%d of %d figures are on the page", seen, len(want))
	}

	deploy, err := os.ReadFile(filepath.Join(root, "docs", "deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	about := regexp.MustCompile("About \\$(\\d+)0 a month for `trial` and \\$(\\d+)0 for `small`").FindStringSubmatch(string(deploy))
	if about == nil || !isRounded(t, about[1], (trial+around)/10) || !isRounded(t, about[2], (small+around)/10) {
		t.Errorf("docs/deploy.md says %q", about)
	}

	// The templates have what is paid for here.
	template, err := os.ReadFile(filepath.Join(root, "deploy", "cloudformation", "service.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(template), "VpcEndpointType: Interface"); n != 4 {
		t.Errorf("service.yaml has %d interface endpoints", n)
	}
	for size, numbers := range map[string]string{
		"trial": `MinRouters: 1\s[^:]*(?:: \d+\s+[^:]*){3}: "256"\s+Memory: "512"`,
		"small": `MinRouters: 2\s[^:]*(?:: \d+\s+[^:]*){3}: "512"\s+Memory: "1024"`,
	} {
		if !regexp.MustCompile(size + `:\s+` + numbers).Match(template) {
			t.Errorf("the routers of size %s are others in service.yaml", size)
		}
	}
}

// example is a column of the example: its inputs by name.
type example map[string]float64

// assumptions are what the example says in its prose.
type assumptions struct {
	memory, busyInstances, busyTasks, idle, lifetime, overlap float64
}

func readAssumptions(t *testing.T, page string) assumptions {
	return assumptions{
		memory:        said(t, page, `Instances have (\d+) MB\.`),
		busyInstances: said(t, page, `their CPUs are at most (\d+) % busy`) / 100,
		busyTasks:     said(t, page, `Fargate's are at most (\d+) % busy`) / 100,
		idle:          said(t, page, `Instances go after (\d+) s without`),
		lifetime:      said(t, page, `live for (\d+) s,`),
		overlap:       said(t, page, `replacement for (\d+) s`),
	}
}

// perDay is something that differs between busy and other hours, summed over a day.
func (s example) perDay(hourly func(rate float64) float64) float64 {
	busy := s["busy, hours a day"]
	return busy*hourly(s["requests a second when busy"]) + (24-busy)*hourly(s["requests a second otherwise"])
}

// duration is how long a request takes, in seconds, where it has a whole vCPU for itself.
func (s example) duration() float64 {
	return (s["a request waits for others, ms"] + s["a request's CPU, ms of one vCPU"]) / 1000
}

// cpus is how many vCPUs are busy with so many requests a second.
func (s example) cpus(rate float64) float64 {
	return rate * s["a request's CPU, ms of one vCPU"] / 1000
}

// instances is how many all routers together have when busy: each has its own.
func (s example) instances(rate float64) float64 {
	each := rate / s["routers"]
	return s["routers"] * math.Max(1, math.Ceil(each*s.duration()/s["target_concurrent"]))
}

// openInstances is how many are open on average. A router's last one goes when nothing
// came for the idle timeout, which with requests at random is so for e^-(rate × time).
func (s example) openInstances(rate float64, a assumptions) float64 {
	each := rate / s["routers"]
	open := 1 - math.Exp(-each*(a.idle+s.duration()))
	return s.instances(rate) * open * a.lifetime / (a.lifetime - a.overlap)
}

// tasks is how many Fargate tasks the app needs.
func (s example) tasks(rate float64, a assumptions) float64 {
	return math.Max(s["Fargate tasks at least"], math.Ceil(s.cpus(rate)/a.busyTasks/s["vCPU of a Fargate task with the app"]))
}

// results are all figures of a column of the example.
func (s example) results(p *prices, a assumptions, page string) map[string]float64 {
	const days = hoursAMonth / 24.0
	busy, rest := s["requests a second when busy"], s["requests a second otherwise"]
	requests := days * s.perDay(func(rate float64) float64 { return rate * 3600 })
	kb := s["bytes in and out, KB"]

	// A capacity unit is 25 new connections a second, or so many GB in an hour.
	units := func(gb float64) float64 {
		return p.of("Load balancer, capacity unit-hour") * days * s.perDay(func(rate float64) float64 {
			return math.Max(rate/s["requests of one client connection"]/25, rate*3600*kb/1e6/gb)
		})
	}
	routers := hoursAMonth * s["routers"] * p.taskHour(s["vCPU of a router"], s["GB of a router"])
	fixed := routers + p.balancerMonth() + p.endpointsMonth(4)
	zones := requests * kb / 1e6 / 2 * 2 * p.of("Between zones, GB in each of both")
	instanceHours := days * s.perDay(func(rate float64) float64 { return s.openInstances(rate, a) })
	instances := instanceHours*p.lambdaHour(a.memory) +
		instanceHours*3600/a.lifetime/1e6*p.of("Lambda, million requests")

	// With one request at a time CPU is a share of the memory's.
	mb := s["memory with one request at a time, MB"]
	seconds := (s["a request waits for others, ms"] + s["a request's CPU, ms of one vCPU"]*math.Max(1, 1769/mb)) / 1000
	single := requests*seconds*p.lambdaHour(mb)/3600 + requests/1e6*p.of("Lambda, million requests")

	fargate := func(peak float64) float64 {
		taskHours := days * (peak*s.tasks(busy, a) + (24-peak)*s.tasks(rest, a))
		return taskHours*p.taskHour(s["vCPU of a Fargate task with the app"], s["GB of a Fargate task with the app"]) +
			p.balancerMonth() + p.endpointsMonth(3) + units(1)
	}
	alone := fargate(s["Fargate is ready for the peak, hours a day"])

	logs := func(what string) float64 {
		return requests / 1e6 * said(p.t, page, what+`, ([\d.]+) KB a request`) * p.of("Logs, GB")
	}
	return map[string]float64{
		"million requests":                  requests / 1e6,
		"requests at once when busy":        busy * s.duration(),
		"instances when busy":               s.instances(busy) * (1 - math.Exp(-busy/s["routers"]*(a.idle+s.duration()))),
		"Fargate tasks at the peak":         s.tasks(busy, a),
		"routers, load balancer, endpoints": fixed,
		"capacity units":                    units(1),
		"bytes between zones":               zones,
		"instances and their invocations":   instances,
		"lambda-dispatch":                   fixed + units(1) + zones + instances,
		"Function URL":                      single,
		"HTTP API and Lambda":               single + requests/1e6*p.of("HTTP API, million requests"),
		"REST API and Lambda":               single + requests/1e6*p.of("REST API, million requests"),
		"load balancer and Lambda":          single + p.balancerMonth() + units(0.4),
		"Fargate alone":                     alone,
		"Fargate alone, by a timetable that knows the busy hours": fargate(s["busy, hours a day"]),
		"Caddy in front of Fargate":                               alone + routers,
		"on top: log of the routers, 1.2 KB a request":            logs("log of the routers"),
		"on top: lines of Lambda's own, 0.4 KB a request":         logs("lines of Lambda's own"),
	}
}

// Each figure of the worked example is what its inputs and the prices make.
func TestCostsOfTheExample(t *testing.T) {
	page := costPage(t)
	p, a := readPrices(t, page), readAssumptions(t, page)
	inputs, stated, order := tableOf(t, page, "Input"), tableOf(t, page, "Result"), tableOf(t, page, "Service")
	ways := []string{"lambda-dispatch", "Function URL", "HTTP API and Lambda", "REST API and Lambda",
		"load balancer and Lambda", "Fargate alone", "Caddy in front of Fargate"}
	for i := range inputs[0].cells {
		s := example{}
		for _, in := range inputs {
			s[in.name] = number(t, in.cells[i])
		}
		if busy := s.cpus(s["requests a second when busy"]); busy > a.busyInstances*s.instances(s["requests a second when busy"])*a.memory/1769 {
			t.Errorf("service %d: %.1f vCPUs are too few instances' work", i, busy)
		}
		want := s.results(p, a, page)
		slices.SortFunc(ways, func(x, y string) int { return cmp.Compare(want[x], want[y]) })
		if got := strings.Join(ways, ", "); got != order[i].cells[0] {
			t.Errorf("service %d, from the cheapest: %s", i, got)
		}
		if len(stated) != len(want) {
			t.Errorf("%d results are on the page, %d computed", len(stated), len(want))
		}
		for _, r := range stated {
			value, ok := want[r.name]
			if !ok {
				t.Errorf("nothing computes %q", r.name)
			} else if len(r.cells) != len(inputs[0].cells) || !isRounded(t, r.cells[i], value) {
				t.Errorf("service %d, %s: %q, computed %.4f", i, r.name, r.cells, value)
			}
		}
	}
}
