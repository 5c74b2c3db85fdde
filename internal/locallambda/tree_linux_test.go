package locallambda

import (
	"os"
	"slices"
	"testing"
)

func TestParseStat(t *testing.T) {
	const rest = " T 17 18 19 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 999 9\n"
	want := processStat{pid: 42, parent: 17, group: 18, state: 'T', start: 123456}
	for _, name := range []string{"(node)", "(a b)", "(:) Z 1 1 ()", "())", "(new\nline)"} {
		if got, ok := parseStat(42, []byte("42 "+name+rest)); !ok || got != want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Skip("needs /proc")
	}
	f.Add(own)
	f.Add([]byte("1 (x) S"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if p, ok := parseStat(1, line); !ok && p.pid != 0 && p.pid != 1 {
			t.Errorf("%+v", p)
		}
	})
}

func TestTreeNeverHoldsItself(t *testing.T) {
	tr := newTree("nobody")
	tr.forAnyAge()
	tr.add(os.Getpid())
	stat := readProcesses()[os.Getpid()]
	tr.add(stat.group)
	if members, _ := tr.walk(); slices.Contains(members, os.Getpid()) {
		t.Error("it would kill itself")
	}
}

func BenchmarkWalk(b *testing.B) {
	tr := newTree("nobody")
	b.ReportAllocs()
	for b.Loop() {
		tr.walk()
	}
	b.ReportMetric(float64(len(readProcesses())), "processes")
}
