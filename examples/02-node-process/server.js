// An ordinary HTTP server; all it knows of Pelton is $PORT.
const http = require("node:http");

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    console.log(`${request.method} ${request.url}`);
    const url = new URL(request.url, "http://localhost");
    if (url.pathname === "/slow") {
      setTimeout(() => response.end("slow\n"), Number(url.searchParams.get("ms")));
    } else if (url.pathname === "/echo") {
      response.writeHead(200, { "content-type": request.headers["content-type"] ?? "text/plain" });
      response.end(Buffer.concat(chunks));
    } else if (request.headers["ce-type"]) {
      response.writeHead(204);
      response.end();
    } else {
      response.end(`Hello from Node ${process.version.split(".")[0]}!\n`);
    }
  });
});

process.on("SIGTERM", () => server.close());
server.listen(process.env.PORT, "127.0.0.1");
