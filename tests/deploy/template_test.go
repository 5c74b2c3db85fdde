package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// template is a CloudFormation template with values for its parameters.
type template struct {
	t          *testing.T
	name       string
	parameters map[string]any
	mappings   map[string]any
	conditions map[string]any
	resources  map[string]any
	outputs    map[string]any
	rules      map[string]any
	given      map[string]string // by whoever loads it
	values     map[string]string // of parameters
}

// pseudo are the parameters that CloudFormation adds.
var pseudo = map[string]string{
	"AWS::StackName": "shop", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012",
	"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::NoValue": noValue,
}

// noValue takes away what has it.
const noValue = "AWS::NoValue"

// attributes are those that somebody reads before AWS is there.
var attributes = map[string]string{
	"PrivateA.AvailabilityZone": "eu-central-1a", "PrivateA.AvailabilityZoneId": "euc1-az2",
	"PrivateB.AvailabilityZone": "eu-central-1b", "PrivateB.AvailabilityZoneId": "euc1-az3",
}

// loadTemplate reads a template of deploy/cloudformation. The given values come
// before the defaults of its parameters.
func loadTemplate(t *testing.T, name string, given map[string]string) *template {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, "deploy", "cloudformation", name))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(source, &doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	all := plain(doc.Content[0]).(map[string]any)
	section := func(name string) map[string]any { s, _ := all[name].(map[string]any); return s }
	f := &template{
		t: t, name: name, given: given, values: maps.Clone(pseudo),
		parameters: section("Parameters"), mappings: section("Mappings"),
		conditions: section("Conditions"), resources: section("Resources"),
		outputs: section("Outputs"), rules: section("Rules"),
	}
	for p, about := range f.parameters {
		if d, ok := about.(map[string]any)["Default"]; ok {
			f.values[p] = fmt.Sprint(d)
		}
	}
	for p, v := range given {
		if f.parameters[p] == nil {
			t.Fatalf("%s has no parameter %s", name, p)
		}
		f.values[p] = v
	}
	for p := range f.parameters {
		if _, ok := f.values[p]; !ok {
			t.Fatalf("%s: parameter %s has no value", name, p)
		}
	}
	return f
}

// plain turns YAML into maps, lists and values; !Tag x becomes {"!Tag": x}.
func plain(n *yaml.Node) any {
	var value any
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			m[n.Content[i].Value] = plain(n.Content[i+1])
		}
		value = m
	case yaml.SequenceNode:
		l := []any{}
		for _, c := range n.Content {
			l = append(l, plain(c))
		}
		value = l
	default:
		if strings.HasPrefix(n.Tag, "!!") {
			if err := n.Decode(&value); err != nil {
				panic(err)
			}
			return value
		}
		value = n.Value
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		return map[string]any{n.Tag: value}
	}
	return value
}

// eval replaces intrinsic functions by what CloudFormation would, as far as that
// is known before resources are made: an attribute is "Resource.Attribute".
func (f *template) eval(v any) any {
	switch v := v.(type) {
	case []any:
		l := []any{}
		for _, e := range v {
			if e = f.eval(e); e != noValue {
				l = append(l, e)
			}
		}
		return l
	case map[string]any:
		if len(v) == 1 {
			for k, arg := range v {
				if strings.HasPrefix(k, "!") {
					return f.call(k, arg)
				}
			}
		}
		m := map[string]any{}
		for k, e := range v {
			if e = f.eval(e); e != noValue {
				m[k] = e
			}
		}
		return m
	}
	return v
}

func (f *template) call(function string, arg any) any {
	list, _ := arg.([]any)
	switch function {
	case "!Ref":
		return f.ref(arg.(string))
	case "!GetAtt":
		return arg
	case "!If":
		if f.condition(list[0].(string)) {
			return f.eval(list[1])
		}
		return f.eval(list[2])
	case "!FindInMap":
		row := f.mappings[list[0].(string)].(map[string]any)
		return row[f.eval(list[1]).(string)].(map[string]any)[list[2].(string)]
	case "!Sub":
		text, own := arg, map[string]any{}
		if list != nil {
			text, own = list[0], list[1].(map[string]any)
		}
		return regexp.MustCompile(`\$\{[^}]+\}`).ReplaceAllStringFunc(text.(string), func(s string) string {
			s = s[2 : len(s)-1]
			if v, ok := own[s]; ok {
				return fmt.Sprint(f.eval(v))
			}
			if a, ok := attributes[s]; ok {
				return a
			}
			if strings.Contains(s, ".") {
				return s
			}
			return f.ref(s)
		})
	case "!Select", "!Cidr", "!GetAZs":
		return fmt.Sprint(function, arg)
	}
	f.t.Fatalf("%s: %s is not known here", f.name, function)
	return nil
}

func (f *template) ref(name string) string {
	if v, ok := f.values[name]; ok {
		return v
	}
	if f.resources[name] == nil {
		f.t.Fatalf("%s: nothing is called %s", f.name, name)
	}
	return name
}

func (f *template) condition(name string) bool {
	c, ok := f.conditions[name].(map[string]any)
	if !ok {
		f.t.Fatalf("%s: no condition %s", f.name, name)
	}
	if n, ok := c["!Not"]; ok {
		c = n.([]any)[0].(map[string]any)
		pair := f.eval(c["!Equals"]).([]any)
		return pair[0] != pair[1]
	}
	pair := f.eval(c["!Equals"]).([]any)
	return pair[0] == pair[1]
}

// properties are those of a resource. It is an error if it is not made.
func (f *template) properties(resource string) map[string]any {
	f.t.Helper()
	r, ok := f.resources[resource].(map[string]any)
	if !ok {
		f.t.Fatalf("%s: no resource %s", f.name, resource)
	}
	if c, ok := r["Condition"].(string); ok && !f.condition(c) {
		f.t.Fatalf("%s: %s is not made", f.name, resource)
	}
	return f.eval(r["Properties"]).(map[string]any)
}

// metadata evaluates what a resource says besides its properties.
func (f *template) metadata(resource string) any {
	f.t.Helper()
	return f.eval(f.resources[resource].(map[string]any)["Metadata"])
}

// output is the value of an output, and whether there is one.
func (f *template) output(name string) (value string, ok bool) {
	f.t.Helper()
	o, ok := f.outputs[name].(map[string]any)
	if !ok {
		f.t.Fatalf("%s: no output %s", f.name, name)
	}
	if c, ok := o["Condition"].(string); ok && !f.condition(c) {
		return "", false
	}
	return f.eval(o["Value"]).(string), true
}

// ofType are the names of all resources of a type that are made.
func (f *template) ofType(kind string) []string {
	var names []string
	for name, r := range f.resources {
		r := r.(map[string]any)
		if c, ok := r["Condition"].(string); ok && !f.condition(c) {
			continue
		}
		if r["Type"] == kind {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// attribute is the value of a load balancer's or target group's attribute.
func attribute(t *testing.T, properties map[string]any, list, key string) int {
	t.Helper()
	for _, a := range properties[list].([]any) {
		if a := a.(map[string]any); a["Key"] == key {
			return number(t, a["Value"])
		}
	}
	t.Fatalf("no attribute %s", key)
	return 0
}

func number(t *testing.T, v any) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(fmt.Sprint(v), &n); err != nil {
		t.Fatalf("%v is no number", v)
	}
	return n
}
