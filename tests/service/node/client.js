// Calls a server with nothing but the .proto file and the service config, which says what is retried, and prints what
// it says as JSON. It takes responses as large as the server sends them; gRPC's own limit is 4 MiB.
// Usage: node client.js PROTO_FILE SERVICE_CONFIG_FILE HOST:PORT

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [protoFile, serviceConfigFile, address] = process.argv.slice(2);
const definition = protoLoader.loadSync(protoFile, { keepCase: true, longs: Number, enums: String, defaults: true });
const { ffnsearch } = grpc.loadPackageDefinition(definition);
const client = new ffnsearch.v1.PredictionService(address, grpc.credentials.createInsecure(), {
  "grpc.service_config": fs.readFileSync(serviceConfigFile, "utf8"),
  "grpc.max_receive_message_length": -1,
});

function call(method, request) {
  const options = { deadline: Date.now() + 20_000 };
  return new Promise((resolve, reject) => {
    client[method](request, options, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

function doubles(bytes) {
  return Array.from({ length: bytes.length / 8 }, (_, place) => bytes.readDoubleLE(8 * place));
}

async function main() {
  const info = await call("GetInfo", {});
  const predicted = await call("Predict", {
    prompts: [{ text: "the people" }, { tokens: { ids: [1, 2, 3] } }, { text: "café" }],
    dense: true,
    include_model: true,
    include_queries: true,
  });
  const [{ queries }] = predicted.results;
  const again = await call("Predict", { prompts: [{ queries }], dense: true });
  const pages = [];
  let page_token = "";
  do {
    const page = await call("ListNeighbors", { prompt: { text: "the people" }, block: 1, page_size: 50, page_token });
    pages.push(page.neighbors.map((neighbor) => neighbor.id));
    page_token = page.next_page_token;
  } while (page_token);
  const refusal = await call("Predict", { prompts: [{ text: "a" }], min_prob: NaN }).catch((error) => error);
  client.close();
  console.log(
    JSON.stringify({
      substrings: info.snapshot.substrings,
      statuses: predicted.results.map((result) => result.status),
      reason: predicted.results[2].error.reason,
      answer: predicted.results[0].distribution.tokens,
      dense: doubles(predicted.results[0].distribution.dense),
      of_queries: doubles(again.results[0].distribution.dense),
      hellinger: predicted.results[0].hellinger,
      pages,
      refusal: { code: grpc.status[refusal.code], details: refusal.details },
    }),
  );
}

main();
