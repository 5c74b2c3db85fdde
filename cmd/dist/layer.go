package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"io"

	"github.com/lambda-dispatch/lambda-dispatch/lambdaadapter/layer"
)

// packLayer makes the zip file of a layer, whose files appear below /opt. See
// https://docs.aws.amazon.com/lambda/latest/dg/packaging-layers.html.
func packLayer(adapter []byte) ([]byte, error) {
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	zw.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.BestCompression)
	})
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"bootstrap", layer.Bootstrap},
		{"extensions/lambdaadapter", adapter},
	} {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: epoch}
		header.SetMode(0o755)
		w, err := zw.CreateHeader(header)
		if err == nil {
			_, err = w.Write(f.content)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
