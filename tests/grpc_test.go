package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	plaintext "google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// startGRPC runs Caddy before the gRPC app and returns a client.
func startGRPC(t *testing.T, env ...string) (*router, *grpc.ClientConn) {
	t.Helper()
	return startGRPCWith(t, "", env...)
}

func startGRPCWith(t *testing.T, line string, env ...string) (*router, *grpc.ClientConn) {
	t.Helper()
	r := startCaddy(t, dispatch("max_concurrent 20", "max_instances 2", line,
		local(append(appInRole(t, "grpc"), append(env, "env LAMBDA_DISPATCH_APP_PROTOCOL h2c")...)...)))
	return r, grpcClient(t, r)
}

func grpcClient(t *testing.T, r *router) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(plaintext.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "site.sock"))
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func unary(ctx context.Context, cc *grpc.ClientConn, text string, opts ...grpc.CallOption) (string, error) {
	out := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String(text), out, opts...)
	return out.GetValue(), err
}

// open begins a stream that ends with the test at the latest.
func open(t *testing.T, cc *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/"+method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sendText(t *testing.T, s grpc.ClientStream, text string) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.String(text)); err != nil {
		t.Fatal(err)
	}
}

func recvText(s grpc.ClientStream) (string, error) {
	out := new(wrapperspb.StringValue)
	err := s.RecvMsg(out)
	return out.GetValue(), err
}

func TestGRPC(t *testing.T) {
	for name, line := range map[string]string{
		"lean proxy":    "",
		"reverse_proxy": "header_down X-Through reverse_proxy",
		"plain tunnel":  "callback {\n tls off\n}",
	} {
		t.Run(name, func(t *testing.T) { testGRPC(t, line) })
	}
}

func testGRPC(t *testing.T, line string) {
	_, cc := startGRPCWith(t, line)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	t.Run("unary", func(t *testing.T) {
		for _, size := range []int{0, 1, 70_000, 5 << 20} {
			sent := strings.Repeat("x", size)
			if got, err := unary(ctx, cc, sent); err != nil || got != sent {
				t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
			}
		}
	})
	t.Run("metadata", func(t *testing.T) {
		var head, tail metadata.MD
		_, err := unary(metadata.AppendToOutgoingContext(ctx, "x-sent", "a", "x-sent", "b"), cc, "metadata", grpc.Header(&head), grpc.Trailer(&tail))
		if err != nil || fmt.Sprint(head.Get("x-head")) != "[a|b]" || fmt.Sprint(head.Get("x-bytes-bin")) != "[\x00\xff]" || fmt.Sprint(tail.Get("x-tail")) != "[1 2]" {
			t.Errorf("header %v, trailer %v, %v", head, tail, err)
		}
	})
	t.Run("status with details", func(t *testing.T) {
		_, err := unary(ctx, cc, "fail")
		if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "not now, ü" || len(st.Details()) != 1 {
			t.Errorf("%v with details %v", err, st.Details())
		}
	})
	t.Run("unknown method", func(t *testing.T) {
		err := cc.Invoke(ctx, "/test.Echo/None", wrapperspb.String(""), new(wrapperspb.StringValue))
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v", err)
		}
	})
	t.Run("server streaming", func(t *testing.T) {
		for _, text := range []string{"", "abc", "ab!"} {
			s := open(t, cc, "Server")
			sendText(t, s, text)
			_ = s.CloseSend()
			var all strings.Builder
			part, err := recvText(s)
			for ; err == nil; part, err = recvText(s) {
				all.WriteString(part)
			}
			got := all.String()
			ended := errors.Is(err, io.EOF)
			if strings.HasSuffix(text, "!") {
				ended = status.Code(err) == codes.DataLoss
			}
			if got != text || !ended || fmt.Sprint(s.Trailer().Get("x-tail")) != "[end]" {
				t.Errorf("%q: got %q, %v, trailer %v", text, got, err, s.Trailer())
			}
		}
	})
	t.Run("client streaming", func(t *testing.T) {
		s := open(t, cc, "Client")
		for range 100 {
			sendText(t, s, strings.Repeat("y", 50_000))
		}
		_ = s.CloseSend()
		if got, err := recvText(s); err != nil || len(got) != 5_000_000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("bidirectional streaming", func(t *testing.T) {
		s := open(t, cc, "Bidi")
		for i := range 50 { // each waits for the one before
			text := fmt.Sprint(i, strings.Repeat("z", i*1000))
			sendText(t, s, text)
			if got, err := recvText(s); err != nil || got != text {
				t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
			}
		}
		_ = s.CloseSend()
		if _, err := recvText(s); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
	})
}

// A call that the client gives up, or whose time is over, ends at the app too.
func TestGRPCCancellationAndDeadline(t *testing.T) {
	r, cc := startGRPC(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := unary(ctx, cc, "warm"); err != nil {
		t.Fatal(err)
	}
	cctx, leave := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := unary(cctx, cc, "wait")
		done <- err
	}()
	says := func(question string) string {
		got, err := unary(ctx, cc, question)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	r.await("the call", func() bool { return says("waiting") == "1" })
	leave()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	// On a busy machine the time can be over before the app sees the call.
	r.await("a call whose time is over", func() bool {
		tctx, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		defer stop()
		if _, err := unary(tctx, cc, "wait"); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("deadline: %v", err)
		}
		return says("waiting") != "1"
	})
	r.await("all calls to end at the app", func() bool { return says("ended") == says("waiting") })
	r.await("the slots", func() bool { return r.pool().InFlight == 0 })
}

// An app that ends its connections all the time (GOAWAY, as it does at their
// maximum age) fails no call, and no stream that is open meanwhile.
func TestGRPCConnectionAge(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several connection ages")
	}
	_, cc := startGRPC(t, "env TEST_GRPC_AGE 300ms")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := open(t, cc, "Bidi")
	sendText(t, s, "first")
	if _, err := recvText(s); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(4 * time.Second)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				text := strconv.Itoa(n)
				if got, err := unary(ctx, cc, text); err != nil || got != text {
					t.Errorf("call %d: %q, %v", n, got, err)
					return
				}
			}
		})
	}
	calls.Wait()
	sendText(t, s, "last")
	if got, err := recvText(s); err != nil || got != "last" {
		t.Errorf("the stream got %q, %v", got, err)
	}
}

// An app that dies fails its calls as unavailable, which gRPC clients know how
// to handle, and the next call is served.
func TestGRPCAppThatIsGone(t *testing.T) {
	r, cc := startGRPC(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := unary(ctx, cc, "warm"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := unary(ctx, cc, "wait")
		done <- err
	}()
	r.await("the call", func() bool { return r.pool().InFlight == 1 })
	killApps(t, r)
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	if got, err := unary(ctx, cc, "again"); err != nil || got != "again" {
		t.Errorf("after it: %q, %v", got, err)
	}
}
