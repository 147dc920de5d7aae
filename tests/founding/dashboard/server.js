// SPDX-License-Identifier: Apache-2.0
// Serves a page on a unix socket; SIGHUP reads the page again.
const fs = require('fs');
const http = require('http');
const path = require('path');

const socket = path.join(process.env.HOME, 'dashboard.sock');
let page;

function load() {
	page = fs.readFileSync(path.join(__dirname, 'public/index.html'), 'utf8');
	console.log('dashboard version', /version (\w+)/.exec(page)[1]);
}

process.on('SIGHUP', load);
load();
fs.rmSync(socket, { force: true });
http.createServer((request, response) => response.end(page)).listen(socket);
