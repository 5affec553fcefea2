/** An HTTP proxy on loopback that leads every name to one place, and writes down what it was asked. */
import { once } from 'node:events';
import {
  createServer,
  type IncomingMessage,
  type ServerResponse,
  request as send,
} from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

export class LoopbackProxy {
  /** `CONNECT name:port`, or the method and the address as they came. */
  readonly requests: string[] = [];
  readonly authorizations: (string | undefined)[] = [];
  /** `ada:secret`, when it asks for that. */
  account: string | undefined;
  readonly #server = createServer();
  readonly #sockets = new Set<Socket>();
  readonly #target: string;

  /** All requests go to `target`, `127.0.0.1:port`. */
  constructor(target: string) {
    this.#target = target;
    this.#server.on('request', (request, response) => this.#forward(request, response));
    this.#server.on('connect', (request, socket, head) => {
      this.#tunnel(request, socket as Socket, head);
    });
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #admits({ headers }: IncomingMessage): boolean {
    const given = headers['proxy-authorization'];
    this.authorizations.push(given);
    if (this.account === undefined) return true;
    return given === `Basic ${Buffer.from(this.account).toString('base64')}`;
  }

  #forward(request: IncomingMessage, response: ServerResponse): void {
    const { method, url = '', headers } = request;
    this.requests.push(`${method} ${url}`);
    if (!this.#admits(request)) {
      response.writeHead(407, { 'proxy-authenticate': 'Basic realm="proxy"' }).end();
      return;
    }
    const { pathname, search } = new URL(url);
    const { 'proxy-authorization': _, ...passed } = headers;
    const onward = send(`http://${this.#target}${pathname}${search}`, { method, headers: passed });
    onward.once('response', (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.once('error', () => response.destroy());
    request.pipe(onward);
  }

  #tunnel(request: IncomingMessage, socket: Socket, head: Buffer): void {
    this.requests.push(`CONNECT ${request.url}`);
    if (!this.#admits(request)) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      return;
    }
    const [host, port] = this.#target.split(':');
    const onward = connect(Number(port), host);
    for (const each of [socket, onward]) {
      this.#sockets.add(each);
      each.on('error', () => {});
    }
    onward.once('connect', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
  }
}
