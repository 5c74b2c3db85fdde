package tests

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// variable is one of the adapter's variables, as its help or its page has it.
type variable struct {
	name, also, dflt string
}

// docs/adapter.md has the variables that the adapter has, with their other
// names and defaults, in the same order.
func TestVariablesInTheDocs(t *testing.T) {
	out, err := exec.Command(adapterBin, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var helped []variable
	line := regexp.MustCompile(`^(LAMBDA_DISPATCH_[A-Z_]+) {2,}.*?(?: \(default ([^)]+)\))?(?:; also ([A-Z_, ]+))?$`)
	for l := range strings.Lines(string(out)) {
		if !strings.HasPrefix(l, "LAMBDA_DISPATCH_") {
			continue
		}
		m := line.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			t.Fatalf("--help says what cannot be read: %s", l)
		}
		helped = append(helped, variable{m[1], m[3], m[2]})
	}

	var documented []variable
	for l := range strings.Lines(adapterPage(t)) {
		cells := strings.Split(l, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " `LAMBDA_DISPATCH_") {
			continue
		}
		for i, c := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(c, "`", ""))
			if cells[i] == "–" {
				cells[i] = ""
			}
		}
		documented = append(documented, variable{cells[1], cells[2], cells[3]})
		if cells[4] == "" {
			t.Errorf("%s has no meaning", cells[1])
		}
	}
	if len(helped) == 0 || !slices.Equal(helped, documented) {
		t.Errorf("--help and docs/adapter.md differ:\n%s", differences(helped, documented))
	}
}

// differences lists what is on one side only.
func differences(helped, documented []variable) string {
	var b strings.Builder
	for _, v := range helped {
		if !slices.Contains(documented, v) {
			b.WriteString("help: " + v.name + " also " + v.also + " default " + v.dflt + "\n")
		}
	}
	for _, v := range documented {
		if !slices.Contains(helped, v) {
			b.WriteString("docs: " + v.name + " also " + v.also + " default " + v.dflt + "\n")
		}
	}
	if b.Len() == 0 {
		return "the order"
	}
	return b.String()
}

// The names of events' sources and of errors are those in the code.
func TestNamesInTheAdaptersDocs(t *testing.T) {
	page := adapterPage(t)
	errorType := regexp.MustCompile(`LambdaDispatch\.[A-Za-z]+`)
	inCode := sourceText(t, "internal/adapter", "internal/directevent")
	compare(t, "error types", errorType.FindAllString(inCode, -1), errorType.FindAllString(page, -1))

	table := between(t, inCode, "var sourceNames = ", "\n}\n")
	sources := firsts(regexp.MustCompile(`: +"([a-z0-9-]+)"`).FindAllStringSubmatch(table, -1))
	section := between(t, page, "## Event sources", "**Batches.**")
	named := firsts(regexp.MustCompile("`([a-z0-9]+(?:-[a-z0-9]+)*)`").FindAllStringSubmatch(section, -1))
	named = slices.DeleteFunc(named, func(name string) bool { return name == "path" || name == "cookies" || name == "null" })
	compare(t, "sources", sources, named)
}

func compare(t *testing.T, what string, code, docs []string) {
	t.Helper()
	inCode, inDocs := set(code), set(docs)
	if !maps.Equal(inCode, inDocs) {
		t.Errorf("%s: the code has %v\nand docs/adapter.md %v", what, slices.Sorted(maps.Keys(inCode)), slices.Sorted(maps.Keys(inDocs)))
	}
}

func set(list []string) map[string]bool {
	s := make(map[string]bool)
	for _, e := range list {
		s[e] = true
	}
	return s
}

func firsts(matches [][]string) []string {
	var list []string
	for _, m := range matches {
		list = append(list, m[1])
	}
	return list
}

func between(t *testing.T, text, begin, end string) string {
	t.Helper()
	_, text, found := strings.Cut(text, begin)
	text, _, ended := strings.Cut(text, end)
	if !found || !ended {
		t.Fatalf("there is nothing between %q and %q", begin, end)
	}
	return text
}

// adapterPage is the text of docs/adapter.md.
func adapterPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "adapter.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// sourceText is the code of packages without their tests.
func sourceText(t *testing.T, packages ...string) string {
	t.Helper()
	var b strings.Builder
	for _, pkg := range packages {
		for _, file := range goFiles(t, filepath.Join(root, pkg)) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(src)
		}
	}
	return b.String()
}
