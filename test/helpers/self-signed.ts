import { execFileSync } from 'node:child_process';

/** A certificate for loopback and the names, and its key. */
export function selfSigned(...names: string[]): { key: string; cert: string } {
  const subjects = ['IP:127.0.0.1', ...names.map((name) => `DNS:${name}`)].join(',');
  const out = execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
      ...['-subj', '/CN=loopback', '-addext', `subjectAltName=${subjects}`, '-days', '2'],
      ...['-keyout', '-', '-out', '-'],
    ],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const at = out.indexOf('-----BEGIN CERTIFICATE-----');
  return { key: out.slice(0, at), cert: out.slice(at) };
}
