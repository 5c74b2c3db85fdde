package adapter

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// fakeLambda is the Runtime API and the Extensions API of one environment.
type fakeLambda struct {
	srv         *httptest.Server
	invocations chan lambdaapi.Invocation
	shutdown    chan string
	ended       chan ended
	initErrors  chan lambdaapi.FunctionError
	waiting     chan struct{} // one for each call of next
	restore     fakeRestore

	mu         sync.Mutex
	registered []string          // guarded by mu: name and events
	refuse     map[string]string // guarded by mu: what has been registered → type of the error
}

// ended is the end of an invocation.
type ended struct {
	how  string // "response" or "error"
	body []byte
	at   time.Time
}

func newFakeLambda(t *testing.T) *fakeLambda {
	f := &fakeLambda{
		invocations: make(chan lambdaapi.Invocation, 4),
		shutdown:    make(chan string, 1),
		ended:       make(chan ended, 4),
		initErrors:  make(chan lambdaapi.FunctionError, 4),
		waiting:     make(chan struct{}, 100),
		refuse:      map[string]string{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2020-01-01/extension/register", f.register)
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case reason := <-f.shutdown:
			if reason == "" { // another event
				_, _ = io.WriteString(w, `{"eventType":"NEWS"}`)
				return
			}
			_, _ = fmt.Fprintf(w, `{"eventType":"SHUTDOWN","shutdownReason":%q}`, reason)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		f.waiting <- struct{}{}
		select {
		case inv := <-f.invocations:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", inv.RequestID)
			w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.Deadline.UnixMilli(), 10))
			_, _ = w.Write(inv.Event)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{how}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.ended <- ended{how: r.PathValue("how"), body: body, at: time.Now()}
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", func(w http.ResponseWriter, r *http.Request) {
		var e lambdaapi.FunctionError
		_ = json.NewDecoder(r.Body).Decode(&e)
		f.initErrors <- e
		w.WriteHeader(http.StatusAccepted)
	})
	f.restore.handle(mux)
	f.srv = httptest.NewServer(mux)
	t.Cleanup(f.srv.Close)
	return f
}

func (f *fakeLambda) register(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	what := r.Header.Get("Lambda-Extension-Name") + " " + string(body)
	f.mu.Lock()
	f.registered = append(f.registered, what)
	refusal := f.refuse[what]
	f.mu.Unlock()
	if refusal != "" {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, `{"errorType":%q,"errorMessage":"no"}`, refusal)
		return
	}
	w.Header().Set("Lambda-Extension-Identifier", "ext-1")
	_, _ = io.WriteString(w, `{"functionName":"f"}`)
}
