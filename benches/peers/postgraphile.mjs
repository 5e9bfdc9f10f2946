// PostGraphile over the tables of Tenantry, under the same role and the same row-level security. It takes the tenant from
// headers: it checks no token and no membership, and its mutation writes no audit row and tells nobody.
import { createServer } from "node:http";
import { postgraphile } from "postgraphile";
import { makePgService } from "postgraphile/adaptors/pg";
import { grafserv } from "postgraphile/grafserv/node";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";

const port = Number(process.env.PORT);
const preset = {
  extends: [PostGraphileAmberPreset],
  pgServices: [
    makePgService({
      connectionString: process.env.DATABASE_URL,
      schemas: ["tenantry"],
      poolConfig: { max: Number(process.env.DATABASE_MAX_CONNECTIONS) },
    }),
  ],
  grafserv: { port, host: "127.0.0.1", graphqlPath: "/graphql", watch: false, graphiql: false },
  grafast: {
    explain: false,
    context(ctx) {
      const headers = ctx.node?.req?.headers ?? {};
      return {
        pgSettings: {
          "app.current_org_id": headers["x-org"] ?? "",
          "app.current_user_id": headers["x-user"] ?? "",
          "app.is_superadmin": "false",
        },
      };
    },
  },
};
const server = createServer();
await postgraphile(preset).createServ(grafserv).addTo(server);
server.listen(port, "127.0.0.1");
