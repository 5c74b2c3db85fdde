package adapter

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkStart starts the real binary beside an app that is up, and reports
// the time from exec to the first /next, and the memory that it then has
// resident.
func BenchmarkStart(b *testing.B) {
	bin := filepath.Join(b.TempDir(), "lambdaadapter")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "../../lambdaadapter")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	next := make(chan time.Time, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "ext-1")
		_, _ = w.Write([]byte(`{"functionName":"f"}`))
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(_ http.ResponseWriter, r *http.Request) {
		next <- time.Now()
		<-r.Context().Done()
	})
	lambda := httptest.NewServer(mux)
	defer lambda.Close()

	var total time.Duration
	var worst time.Duration
	var rss int
	for b.Loop() {
		cmd := exec.Command(bin)
		cmd.Env = []string{
			apiVariable + "=" + lambda.Listener.Addr().String(),
			"AWS_LAMBDA_HTTP_ENDPOINT=" + app.Listener.Addr().String(),
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		took := (<-next).Sub(began)
		total, worst = total+took, max(worst, took)
		rss = max(rss, resident(cmd.Process.Pid))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), "ms/start")
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms/start")
	b.ReportMetric(float64(rss)/1000, "worst-rss-MB")
}

// resident is the resident memory of a process in kB (proc_pid_status(5)).
func resident(pid int) int {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status") // Linux only: elsewhere it is 0
	for line := range strings.SplitSeq(string(status), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")))
			return n
		}
	}
	return 0
}
