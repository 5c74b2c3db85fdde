package tests

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxMessage is above the largest message of the tests.
const maxMessage = 8 << 20

// The gRPC app is this test binary, started again with appRoleVar set to
// "grpc". Its service has a method of each kind.
var grpcService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(
		srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
	) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return srv.(*grpcApp).unary(ctx, in)
	}}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Server", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return serverStream(s) }},
		{StreamName: "Client", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return clientStream(s) }},
		{StreamName: "Bidi", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return bidiStream(s) }},
	},
}

// grpcApp counts the calls that wait, and those of them that ended because the
// client gave them up or had given them no more time.
type grpcApp struct{ waiting, ended atomic.Int64 }

func runGRPC() error {
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage)}
	if age := os.Getenv("TEST_GRPC_AGE"); age != "" {
		d, err := time.ParseDuration(age)
		if err != nil {
			return err
		}
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: d, MaxConnectionAgeGrace: time.Minute}))
	}
	s := grpc.NewServer(options...)
	s.RegisterService(&grpcService, &grpcApp{})
	return s.Serve(ln)
}

func (a *grpcApp) unary(ctx context.Context, in *wrapperspb.StringValue) (any, error) {
	switch in.GetValue() {
	case "metadata":
		md, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", strings.Join(md.Get("x-sent"), "|"), "x-bytes-bin", "\x00\xff"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-tail", "1", "x-tail", "2"))
	case "fail":
		st, err := status.New(codes.FailedPrecondition, "not now, ü").WithDetails(&errdetails.RetryInfo{})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	case "wait":
		a.waiting.Add(1)
		<-ctx.Done()
		a.ended.Add(1)
		return nil, ctx.Err()
	case "waiting":
		return wrapperspb.String(strconv.FormatInt(a.waiting.Load(), 10)), nil
	case "ended":
		return wrapperspb.String(strconv.FormatInt(a.ended.Load(), 10)), nil
	}
	return in, nil
}

// serverStream sends as many messages as the request has bytes, and then an
// error if the last is an exclamation mark.
func serverStream(s grpc.ServerStream) error {
	in := new(wrapperspb.StringValue)
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	for _, c := range in.GetValue() {
		if err := s.SendMsg(wrapperspb.String(string(c))); err != nil {
			return err
		}
	}
	s.SetTrailer(metadata.Pairs("x-tail", "end"))
	if strings.HasSuffix(in.GetValue(), "!") {
		return status.Error(codes.DataLoss, "in the middle")
	}
	return nil
}

// clientStream joins the messages.
func clientStream(s grpc.ServerStream) error {
	var all strings.Builder
	for {
		in := new(wrapperspb.StringValue)
		err := s.RecvMsg(in)
		if errors.Is(err, io.EOF) {
			return s.SendMsg(wrapperspb.String(all.String()))
		}
		if err != nil {
			return err
		}
		all.WriteString(in.GetValue())
	}
}

// bidiStream answers each message before the next.
func bidiStream(s grpc.ServerStream) error {
	for {
		in := new(wrapperspb.StringValue)
		err := s.RecvMsg(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}
