package server

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is wrapped
	"google.golang.org/grpc/mem"
	kmsv2 "k8s.io/kms/apis/v2"
)

// codec wipes a seed after writing it into the answer.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	out, err := c.CodecV2.Marshal(v)
	if answer, ok := v.(*kmsv2.DecryptResponse); ok {
		clear(answer.GetPlaintext())
	}
	return out, err
}
