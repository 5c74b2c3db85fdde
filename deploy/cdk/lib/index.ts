export { routerCaddyfile, type CloudWatchMetrics, type RouterSettings } from "./caddyfile.js";
export { LambdaDispatchFunction, type LambdaDispatchFunctionProps } from "./function.js";
export { LambdaDispatchRouter, type LambdaDispatchRouterProps } from "./router.js";
export { addRouterEndpoints } from "./network.js";
