import * as ec2 from "aws-cdk-lib/aws-ec2";
import { Construct } from "constructs";

/**
 * Adds what routers in subnets without a way to the internet need of AWS:
 * endpoints for their image, their logs and Lambda's API.
 */
export function addRouterEndpoints(vpc: ec2.Vpc): void {
  const services = {
    Lambda: ec2.InterfaceVpcEndpointAwsService.LAMBDA,
    Logs: ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    EcrApi: ec2.InterfaceVpcEndpointAwsService.ECR,
    Ecr: ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
  };
  for (const [name, service] of Object.entries(services)) {
    vpc.addInterfaceEndpoint(`${name}Endpoint`, { service });
  }
  vpc.addGatewayEndpoint("S3Endpoint", { service: ec2.GatewayVpcEndpointAwsService.S3 });
}

/**
 * A security group that lets nothing out but what is allowed later. EC2 lets everything
 * out of a group that has no rule when it is made, and rules that name another
 * group are made afterwards.
 */
export function closedSecurityGroup(scope: Construct, id: string, vpc: ec2.IVpc, description: string): ec2.SecurityGroup {
  const group = new ec2.SecurityGroup(scope, id, { vpc, description, allowAllOutbound: false });
  group.addEgressRule(ec2.Peer.ipv4("127.0.0.1/32"), ec2.Port.tcp(1), "nothing");
  return group;
}
