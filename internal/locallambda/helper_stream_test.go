//go:build unix

package locallambda

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// streamOrders answers an invocation with a stream that a test dictates through
// a gate, line by line: "say TEXT", "flood BYTES", "close", "fail", "cut" and
// "exit". It says "ok" after each, or what went wrong.
func streamOrders(id, gate string) {
	conn := meet(gate, "stream")
	defer conn.Close()
	client := must(lambdaapi.New(os.Getenv("AWS_LAMBDA_RUNTIME_API")))
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := client.RespondStream(ctx, id, lambdaapi.ContentTypeHTTP)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		var err error
		ended := true
		switch verb {
		case "say":
			_, err = io.WriteString(s, rest)
			ended = err != nil
		case "flood":
			err = flood(s, must(strconv.Atoi(rest)))
			ended = err != nil
		case "close":
			err = s.Close()
		case "fail":
			err = s.Fail(&lambdaapi.FunctionError{Type: "App.Broken", Message: "half way"})
		case "cut":
			cancel()
			err = s.Close()
		case "exit":
			os.Exit(9)
		}
		if ended {
			fmt.Fprintln(conn, "ended", err)
			if verb == "cut" {
				lines.Scan() // until Lambda has noticed, which this side cannot see
			}
			return
		}
		fmt.Fprintln(conn, "ok")
	}
}

func flood(w io.Writer, n int) error {
	for buf := make([]byte, 1<<20); n > 0; n -= len(buf) {
		if _, err := w.Write(buf[:min(n, len(buf))]); err != nil {
			return err
		}
	}
	return nil
}

// restoreHooks goes through the phases of SnapStart, with hooks that do as they
// are told.
func restoreHooks(how string) {
	if gate := os.Getenv("SNAPSHOT_GATE"); gate != "" {
		defer meet(gate, "snapshot").Close()
	}
	resp := must(http.Get(api(runtimeBase + "/restore/next")))
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		os.Exit(72)
	}
	switch how {
	case "error":
		post(runtimeBase+"/restore/error", `{"errorType":"Hook.Failed","errorMessage":"no database"}`, headerFunctionError, "Hook.Failed")
		os.Exit(1)
	case "hang":
		select {}
	case "crash":
		os.Exit(5)
	}
}
