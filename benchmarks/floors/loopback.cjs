// Bind a server to the loopback interface that names none: node --require ./loopback.cjs server.js
const { Server } = require("node:net");
const { listen } = Server.prototype;
Server.prototype.listen = function (port, host, ...rest) {
  if (typeof port !== "number") return listen.call(this, port, host, ...rest);
  if (typeof host === "function") rest.unshift(host);
  return listen.call(this, port, "127.0.0.1", ...rest);
};
