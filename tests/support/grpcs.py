"""The gateway's gRPC services for a test, as a client without any .proto file has them: everything is found by server reflection. Needs grpcio and grpcio-reflection."""
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

PACKAGE = "genloop.v1"


class Services:
    def __init__(self, target, metadata=()):
        self.target, self.metadata = target, list(metadata)
        self.channel = self.connect()
        self.pool, self.files = descriptor_pool.DescriptorPool(), set()
        self.ask = self.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", reflection_pb2.ServerReflectionRequest.SerializeToString,
                                              reflection_pb2.ServerReflectionResponse.FromString)

    def connect(self, **more):
        """A channel with a connection of its own."""
        options = {"grpc.max_send_message_length": -1, "grpc.max_receive_message_length": -1, "grpc.enable_retries": 0, "grpc.use_local_subchannel_pool": 1, **more}
        return grpc.insecure_channel(self.target, list(options.items()))

    def reflect(self, **request):
        return next(self.ask(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=60, metadata=self.metadata))

    def service(self, name):
        try:
            return self.pool.FindServiceByName(f"{PACKAGE}.{name}")
        except KeyError:
            pass
        answer = self.reflect(file_containing_symbol=f"{PACKAGE}.{name}")
        protos = {p.name: p for p in map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)}

        def add(proto):
            if proto.name not in self.files:
                self.files.add(proto.name)
                for imported in proto.dependency:
                    add(protos[imported])
                self.pool.Add(proto)
        for proto in protos.values():
            add(proto)
        return self.pool.FindServiceByName(f"{PACKAGE}.{name}")

    def method(self, name, channel=None):
        """("Models.List") → a callable and the class of its requests."""
        service, method = name.split(".")
        found = self.service(service).methods_by_name[method]
        request, reply = (message_factory.GetMessageClass(d) for d in (found.input_type, found.output_type))
        kind = f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
        call = getattr(channel or self.channel, kind)(f"/{PACKAGE}.{service}/{method}", request.SerializeToString, reply.FromString)
        return (lambda message, **more: call(message, **{"timeout": 60, "metadata": self.metadata, **more})), request

    def call(self, what, options=None, /, **fields):
        """A call of one message, by the values of its fields. options: of the call, and "channel"."""
        options = dict(options or {})
        call, request = self.method(what, options.pop("channel", None))
        return call(request(**fields), **options)
