// Scenarios for dockerode: `node dockerode.js SOCKET NODE_MODULES`. Prints what it found as one line of JSON.
'use strict';
const path = require('path');
const { PassThrough } = require('stream');
const assert = require('assert');
const Docker = require(path.join(process.argv[3], 'dockerode'));
const docker = new Docker({ socketPath: process.argv[2] });
const IMAGE = 'busybox:test';

function collect(stream) {
  return new Promise((resolve, reject) => {
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => resolve(Buffer.concat(parts)));
    stream.on('error', reject);
  });
}

async function demuxed(stream) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  stream.on('end', () => { out.end(); err.end(); });
  return Promise.all([collect(out), collect(err)]).then((both) => both.map(String));
}

async function status(promise) {
  try {
    await promise;
    return 0;
  } catch (error) {
    return error.statusCode;
  }
}

async function main() {
  const facts = {};
  assert.strictEqual(String(await docker.ping()), 'OK');
  facts.version = Object.keys(await docker.version()).includes('ApiVersion');
  facts.info = (await docker.info()).OSType;

  const output = new PassThrough();
  const told = collect(output);
  const [result, ran] = await docker.run(IMAGE, ['sh', '-c', 'echo ran; exit 3'], output, { Tty: true });
  facts.run = [result.StatusCode, String(await told)];
  await ran.remove();

  const network = await docker.createNetwork({ Name: 'ode', Labels: { of: 'ode' } });
  const volume = await docker.createVolume({ Name: 'ode' });
  const container = await docker.createContainer({
    Image: IMAGE, name: 'ode', Cmd: ['sh', '-c', 'echo out; echo err >&2; exec sleep 1000'], Labels: { of: 'ode' }, OpenStdin: true,
    HostConfig: { NetworkMode: 'ode', Binds: ['ode:/m'], Memory: 64 << 20, PortBindings: { '80/tcp': [{ HostPort: '18420' }] } }, ExposedPorts: { '80/tcp': {} },
  });
  const attached = await container.attach({ stream: true, stdout: true, stderr: true, hijack: true, stdin: true });
  await container.start();
  facts.startAgain = await status(container.start());
  attached.end();
  const seen = new PassThrough();
  docker.modem.demuxStream(attached, seen, seen);
  await new Promise((resolve) => { let whole = ''; seen.on('data', (part) => { whole += part; if (whole.length >= 8) resolve(); }); });
  attached.destroy();
  const inspected = await container.inspect();
  facts.inspect = [inspected.State.Status, inspected.HostConfig.Memory, Object.keys(inspected.NetworkSettings.Networks)];
  facts.list = (await docker.listContainers({ filters: { label: ['of=ode'] } })).map((one) => one.Names);
  facts.logs = (await container.logs({ stdout: true, stderr: false })).toString('latin1').slice(8);
  facts.followed = await demuxed(await (async () => {
    const stream = await container.logs({ follow: true, stdout: true, stderr: true });
    setTimeout(() => stream.destroy(), 300);
    stream.on('close', () => stream.emit('end'));
    return stream;
  })());
  const exec = await container.exec({ Cmd: ['sh', '-c', 'read x; echo got $x; exit 5'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  stream.write('this\n');
  facts.exec = [await demuxed(stream), (await exec.inspect()).ExitCode];
  facts.stats = Object.keys(await container.stats({ stream: false })).filter((key) => ['cpu_stats', 'memory_stats', 'networks', 'pids_stats'].includes(key)).sort();
  facts.top = (await container.top()).Titles.includes('PID');
  await container.pause();
  await container.unpause();
  await container.update({ CpuShares: 100 });
  await container.rename({ name: 'ode2' });
  const archive = await collect(await container.getArchive({ path: '/etc/hostname' }));
  facts.archive = archive.length > 512;
  await container.putArchive(archive, { path: '/tmp' });
  facts.changes = (await container.changes()).map((one) => one.Path).filter((name) => name === '/tmp/hostname');
  const image = await container.commit({ repo: 'ode', tag: 'one' });
  facts.commit = image.Id.startsWith('sha256:');
  facts.history = (await docker.getImage('ode:one').history()).length > 1;
  await docker.getImage('ode:one').tag({ repo: 'ode', tag: 'two' });
  facts.images = (await docker.listImages({ filters: { reference: ['ode'] } })).map((one) => one.RepoTags.sort());
  const saved = await collect(await docker.getImage('ode:one').get());
  await docker.getImage('ode:one').remove();
  await docker.getImage('ode:two').remove();
  const loading = await docker.loadImage(require('stream').Readable.from([saved]));
  facts.load = await new Promise((resolve, reject) => docker.modem.followProgress(loading, (error, lines) => error ? reject(error) : resolve(lines.pop().stream.trim())));
  await docker.getImage('ode:one').remove();
  await network.disconnect({ Container: 'ode2', Force: true });
  await network.connect({ Container: 'ode2' });
  facts.network = Object.values((await network.inspect()).Containers).map((one) => one.Name);
  facts.inUse = await status(volume.remove());
  facts.pull = await status(docker.pull('127.0.0.1:9/nosuch:tag'));
  const waited = container.wait();
  await container.kill();
  facts.wait = (await waited).StatusCode;
  await container.remove({ v: true });
  facts.gone = await status(container.inspect());
  await network.remove();
  await volume.remove();
  facts.volumes = ((await docker.listVolumes()).Volumes || []).length;
  facts.prune = (await docker.pruneContainers()).ContainersDeleted;
  const events = await docker.getEvents({ since: 1, until: Math.floor(Date.now() / 1000) + 1, filters: { container: ['ode2'], event: ['kill', 'die', 'destroy'] } });
  facts.events = (await collect(events)).toString().trim().split('\n').map((line) => JSON.parse(line).Action);
  console.log(JSON.stringify(facts));
}

main().catch((error) => { console.error(error); process.exit(1); });
