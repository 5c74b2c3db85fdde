//go:build unix

package locallambda

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// order is the payload of an invocation of the test runtime: what to do.
type order struct {
	Do   string `json:"do"`
	Arg  string `json:"arg,omitempty"`
	N    int    `json:"n,omitempty"`
	More []string
}

// answer is what the test runtime responds with.
type answer struct {
	PID    int               `json:"pid"`
	Count  int               `json:"count"`
	Vars   map[string]string `json:"vars,omitempty"`
	Header http.Header       `json:"header,omitempty"`
	Status []int             `json:"status,omitempty"`
	Text   string            `json:"text,omitempty"`
}

func api(path string) string { return "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + path }

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(70)
	}
	return v
}

func post(path, body string, header ...string) int {
	req := must(http.NewRequest(http.MethodPost, api(path), strings.NewReader(body)))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp := must(http.DefaultClient.Do(req))
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// meet connects to a gate of the test and says who is there. The connection
// lives as long as the process, so that the test sees its end.
func meet(address, name string) net.Conn {
	conn := must(net.Dial("tcp", address))
	fmt.Fprintf(conn, "%s %d\n", name, os.Getpid())
	return conn
}

// runtimeMain is a runtime: its init phase follows INIT, its invocations their
// orders.
func runtimeMain() {
	if gate := os.Getenv("RUNTIME_GATE"); gate != "" {
		defer meet(gate, "runtime").Close()
	}
	terms := make(chan os.Signal, 1)
	if gate := os.Getenv("TERM_GATE"); gate != "" {
		signal.Notify(terms, syscall.SIGTERM)
		go func() {
			<-terms
			conn := meet(gate, "sigterm")
			_, _ = io.Copy(io.Discard, conn) // until the test lets go
			os.Exit(0)
		}()
	}
	mode, file, _ := strings.Cut(os.Getenv("INIT"), ":")
	if file != "" && !firstTime(file) { // fails only once
		mode = ""
	}
	switch mode {
	case "hang":
		select {}
	case "crash":
		os.Exit(3)
	case "error":
		post(runtimeBase+"/init/error", `{"errorType":"Config.Missing","errorMessage":"no config"}`, headerFunctionError, "Config.Missing")
		os.Exit(1)
	case "child":
		startChild(os.Getenv("CHILD_GATE"))
	}
	if how := os.Getenv("RESTORE"); how != "" {
		restoreHooks(how)
	}
	loops, _ := strconv.Atoi(os.Getenv("LOOPS"))
	for range loops - 1 {
		go obey()
	}
	obey()
}

// obey takes invocations and does what they order, for ever.
func obey() {
	var statuses []int
	for count := 1; ; count++ {
		resp := must(http.Get(api(runtimeBase + "/invocation/next")))
		if resp.StatusCode != http.StatusOK {
			os.Exit(71)
		}
		body := must(io.ReadAll(resp.Body))
		_ = resp.Body.Close()
		var o order
		_ = json.Unmarshal(body, &o) // not every payload is an order
		a := answer{PID: os.Getpid(), Count: count}
		id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
		base := runtimeBase + "/invocation/" + id
		switch o.Do {
		case "body":
			post(base+"/response", string(body))
			continue
		case "vars":
			a.Vars = make(map[string]string)
			for _, pair := range os.Environ() {
				name, value, _ := strings.Cut(pair, "=")
				a.Vars[name] = value
			}
		case "header":
			a.Header = resp.Header
		case "gate":
			conn := meet(o.Arg, "invocation")
			text, _ := bufio.NewReader(conn).ReadString('\n')
			a.Text = strings.TrimSpace(text)
			_ = conn.Close()
		case "stream":
			streamOrders(id, o.Arg)
			continue
		case "exit":
			os.Exit(o.N)
		case "error":
			post(base+"/error", `{"errorType":"App.Broken","errorMessage":"it broke","stackTrace":[]}`, headerFunctionError, "App.Broken")
			continue
		case "large":
			statuses = append(statuses, post(base+"/response", `"`+strings.Repeat("x", o.N)+`"`))
			continue
		case "trailer":
			breakOff(base + "/response")
			continue
		case "wrong":
			statuses = []int{
				post(runtimeBase+"/invocation/0/response", "{}"),
				post(runtimeBase+"/init/error", "{}"),
				func() int {
					r := must(http.Get(api(runtimeBase + "/invocation/next")))
					_ = r.Body.Close()
					return r.StatusCode
				}(),
				post(base+"/response", `{"first":true}`),
				post(base+"/response", `{"second":true}`),
				post(base+"/error", `{}`),
			}
			continue
		case "statuses":
			a.Status = statuses
		case "print":
			for range max(1, o.N) {
				fmt.Println(o.Arg)
			}
		case "child":
			startChild(o.Arg)
		}
		post(base+"/response", string(marshal(a)))
		if o.Do == "print" && o.N < 0 {
			os.Exit(0)
		}
	}
}

// breakOff sends a streamed response that ends in an error.
func breakOff(path string) {
	r, w := io.Pipe()
	req := must(http.NewRequest(http.MethodPost, api(path), r))
	req.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
	req.Trailer = http.Header{headerFunctionError: nil, headerErrorBody: nil}
	go func() {
		_, _ = w.Write([]byte("half"))
		req.Trailer.Set(headerFunctionError, "App.Broken")
		req.Trailer.Set(headerErrorBody, base64.StdEncoding.EncodeToString([]byte(`{"errorType":"App.Broken","errorMessage":"half way"}`)))
		_ = w.Close()
	}()
	resp := must(http.DefaultClient.Do(req))
	_ = resp.Body.Close()
}

func firstTime(file string) bool {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// startChild starts a process in a session of its own, as some wrappers do,
// with one of its own below it that has lost every trace of its origin, and
// returns when both are at the gate.
func startChild(gate string) {
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = append(os.Environ(), roleVariable+"=child", "CHILD_GATE="+gate, "CHILD_NAME=child")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r, w, err := os.Pipe()
	cmd.ExtraFiles = []*os.File{must(w, err)}
	must(0, cmd.Start())
	must(r.Read(make([]byte, 1)))
	_, _ = w.Close(), r.Close()
}

func childMain() {
	ready := os.NewFile(3, "ready")
	gate, name := os.Getenv("CHILD_GATE"), os.Getenv("CHILD_NAME")
	if name == "child" {
		cmd := exec.Command(must(os.Executable()))
		cmd.Env = []string{roleVariable + "=child", "CHILD_GATE=" + gate, "CHILD_NAME=grandchild"}
		cmd.ExtraFiles = []*os.File{ready}
		defer meet(gate, name).Close()
		must(0, cmd.Start())
	} else {
		defer meet(gate, name).Close()
		must(ready.Write([]byte{1}))
	}
	select {}
}

// extensionMain is an external extension. EXT_EVENTS lists what it subscribes
// to, EXT_MODE what it does, EXT_GATE whom it tells about its events.
func extensionMain() {
	name := filepath.Base(os.Args[0])
	mode := os.Getenv("EXT_MODE")
	if mode == "crash" {
		os.Exit(4)
	}
	var events []string
	if list := os.Getenv("EXT_EVENTS"); list != "" {
		events = strings.Split(list, ",")
	}
	req := must(http.NewRequest(http.MethodPost, api(extensionBase+"/register"),
		bytes.NewReader(marshal(map[string]any{"events": events}))))
	req.Header.Set(headerExtensionName, name)
	req.Header.Set(headerAcceptFeature, "accountId")
	resp := must(http.DefaultClient.Do(req))
	_ = resp.Body.Close()
	id := resp.Header.Get(headerExtensionID)
	if mode == "init-error" {
		post(extensionBase+"/init/error", "{}", headerExtensionID, id, headerExtensionError, "Extension.NoConfig")
		os.Exit(1)
	}
	for {
		req := must(http.NewRequest(http.MethodGet, api(extensionBase+"/event/next"), nil))
		req.Header.Set(headerExtensionID, id)
		resp := must(http.DefaultClient.Do(req))
		var event extensionEvent
		must(0, json.NewDecoder(resp.Body).Decode(&event))
		_ = resp.Body.Close()
		if gate := os.Getenv("EXT_GATE"); gate != "" {
			conn := must(net.Dial("tcp", gate))
			fmt.Fprintf(conn, "%s %d %s %s %d\n", name, os.Getpid(), event.Type, event.Reason, event.DeadlineMS-time.Now().UnixMilli())
			_, _ = io.Copy(io.Discard, conn) // until the test lets it go on
			_ = conn.Close()
		}
		if event.Type == eventShutdown {
			os.Exit(0)
		}
	}
}
